# SPDX-License-Identifier: Apache-2.0
"""The search: what exhaustive enumeration finds, going on, several processes, picks."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest

from lutvar.sim.explore.front import PICKS, pareto, pick
from lutvar.sim.explore.space import ExploreError
from lutvar.sim.explore.study import Exploration
from lutvar.sim.explore.trial import Task, Worth, evaluate
from lutvar.sim.explore.workers import explore
from support.sim.explore import space, task

TASK = task()


@pytest.fixture(scope="module")
def every() -> list[Worth]:
    """All 160 candidates."""
    return [evaluate(TASK, values) for values in TASK.space.candidates()]


def keys(worths: list[Worth]) -> set[str]:
    return {str(sorted(worth.values.items())) for worth in worths}


def test_limits_bind(every: list[Worth]) -> None:
    """Of these spaces some candidates fit and some do not; only those that fit have speeds."""
    feasible = [worth for worth in every if worth.feasible]
    assert len(every) == 160 and 20 < len(feasible) < 140
    assert all(worth.single > 0 and worth.throughput > 0 for worth in feasible)
    for worth in every:
        over = worth.used["lut"] > 899_840 * 0.7
        assert worth.feasible != over and (worth.single == 0) == over
    one = next(w for w in every if w.values["rows"] == 64 and w.values["attention_rows"] == 4)
    # Four small units, FRONT, POST, four row groups, and what ATTEND's line says.
    assert one.used["lut"] == 4_000 + 50_000 + 4 * 60_000 + 160_000
    assert one.used["dsp"] == 10 * 6 + 4 * 10 + 80 and not one.synthesised


def test_one_pass_through_fc2_is_faster() -> None:
    values = {"rows": 48, "attention_rows": 5, "act_banks": 3, "clock": 250.0}
    single = evaluate(TASK, values)
    assert single == evaluate(task(space=space(preset="fp4-single")), values)
    dual = evaluate(task(space=space(preset="fp4")), values)
    assert single.single > 1.05 * dual.single, (single.single, dual.single)
    assert single.throughput > 1.02 * dual.throughput, (single.throughput, dual.throughput)
    assert single.used == dual.used


def test_the_search_finds_what_enumeration_finds(every: list[Worth], tmp_path: Path) -> None:
    search = Exploration(TASK, str(tmp_path / "trials.log"), seed=1)
    search.run(70)
    found = search.worths()
    assert search.trials == 70 and len(found) < len(every)
    best = pareto(every, TASK.objectives)
    front = pareto(found, TASK.objectives)
    for what, wanted in PICKS.items():
        assert wanted(pick(front, what)) >= wanted(pick(best, what)) * (1 - 1e-9), what
    # The same seed makes the same trials; another one others.
    again = Exploration(TASK, str(tmp_path / "again.log"), seed=1)
    again.run(12)
    other = Exploration(TASK, str(tmp_path / "other.log"), seed=2)
    other.run(12)
    assert [w.values for w in again.worths()] == [w.values for w in found[: len(again.worths())]]
    assert [w.values for w in again.worths()] != [w.values for w in other.worths()]


def test_a_small_space_is_tried_as_a_whole(every: list[Worth], tmp_path: Path) -> None:
    search = Exploration(TASK, str(tmp_path / "trials.log"))
    search.run(1000)
    assert keys(search.worths()) == keys(every) and search.trials == len(every)
    search.run(1000)
    assert search.trials == len(every)
    front = pareto(search.worths(), TASK.objectives)
    assert [w.as_dict() for w in front] == [w.as_dict() for w in pareto(every, TASK.objectives)]


def test_going_on_draws_new_candidates(tmp_path: Path) -> None:
    path = str(tmp_path / "trials.log")
    Exploration(TASK, path).run(12)
    search = Exploration(TASK, path)
    before = [worth.values for worth in search.worths()]
    search.run(12)
    assert search.trials == 12
    search.run(30)
    assert search.trials == 30 and len(search.worths()) > len(before) + 5
    assert [worth.values for worth in search.worths()][: len(before)] == before


def test_first_candidates_are_tried_first(tmp_path: Path) -> None:
    search = Exploration(TASK, str(tmp_path / "trials.log"))
    first = {"rows": 48, "attention_rows": 5, "act_banks": 3, "clock": 250.0}
    search.run(3, first=[first])
    assert search.worths()[0].values == first


def _run(task: Task, storage: str, worker: int) -> None:
    Exploration(task, storage).run(16, worker)


@pytest.mark.parametrize("kind", ["file", "sqlite"])
def test_processes_share_a_storage(kind: str, tmp_path: Path) -> None:
    path = str(tmp_path / "trials")
    storage = path if kind == "file" else f"sqlite:///{path}.db"
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_run, args=(TASK, storage, n)) for n in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    search = Exploration(TASK, storage)
    assert 16 <= search.trials <= 17  # both may begin the last one
    done = [trial for trial in search.study.trials if trial.state.is_finished()]
    assert len({trial.number for trial in done}) == len(done)
    assert len(search.worths()) > 8


def test_jobs(tmp_path: Path) -> None:
    search, seen = Exploration(TASK, str(tmp_path / "trials.log")), []
    explore(search, 8, 2, on_done=lambda done, of: seen.append((done, of)))
    assert search.trials in (8, 9) and seen[0] == (0, 8) and seen[-1] == (8, 8)


def test_a_process_that_fails_is_one_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    search = Exploration(TASK, str(tmp_path / "trials.log"))
    search.storage = str(tmp_path / "none.log")  # what the processes open
    (tmp_path / "none.log").write_text("no journal\n")
    with pytest.raises(ExploreError, match="process of the search failed, its message is above"):
        explore(search, 8, 2)
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 2 and all("cannot be used (no journal)" in line for line in lines)
