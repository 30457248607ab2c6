# SPDX-License-Identifier: Apache-2.0
"""The history of `lutvar bench`: lines are added and never lost, and the picture shows them."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest
from PIL import Image

from lutvar.bench import history as bench_history
from lutvar.bench import history_plot
from lutvar.bench import run as bench_run
from lutvar.bench.history import Entry, Figure, append, read
from lutvar.bench.history_plot import draw, machine_name, panels
from lutvar.bench.report import BenchmarkReport, Measurement, machine
from lutvar.cli.errors import BAD_INPUT
from lutvar.cli.main import run


def _report(value: float | None, target: float | None = 10.0) -> BenchmarkReport:
    lines = (
        Measurement("lane", value, "LUT", "timed", target=target),
        Measurement("speed", 5.0, "cycles/s", "timed", target=6.0, higher=True),
        Measurement("broken", None, "LUT", "timed", detail={"reason": "no Yosys"}),
    )
    return BenchmarkReport(lines, machine({"yosys": "0.70"}), quick=True, seconds=1.0)


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Values that the next runs find, in order."""
    values = [12.0, 8.0]
    monkeypatch.setattr(bench_run, "run_benchmarks", lambda quick: _report(values.pop(0)))
    return values


def test_each_run_adds_a_line_and_draws(measured: list[float], tmp_path: Path) -> None:
    path = tmp_path / "new" / "history.jsonl"
    arguments = ["bench", "-o", str(tmp_path / "bench.json"), "--history", str(path)]
    assert run(arguments) == 0
    first = path.read_bytes()
    assert run(arguments) == 0
    assert path.read_bytes().startswith(first) and path.read_bytes().count(b"\n") == 2
    entries = read(path)
    assert [e.figures["lane"].value for e in entries] == [12.0, 8.0]
    assert [e.figures["lane"].missed for e in entries] == [True, False]
    assert entries[0].figures["speed"].missed, "a lower bound"
    assert "broken" not in entries[0].figures
    assert entries[0].quick and entries[0].machine["cores"] >= 1
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", entries[0].date)
    with Image.open(path.with_suffix(".png")) as picture:
        assert picture.width > 800


def test_the_commit_is_named_and_may_be_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = bench_history.commit()
    assert found is None or re.fullmatch(r"[0-9a-f]{12}\+?", found)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert bench_history.commit() is None
    assert _entry(commit=None).label == "2026-01-31"
    assert _entry(commit="0123456789ab+").label == "2026-01-31 0123456"


def test_the_commit_of_another_project_is_none_of_lutvar(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """lutvar installed in an environment inside a user's repository, which does not track it."""
    git = ["git", "-C", str(tmp_path), "-c", "user.name=x", "-c", "user.email=x@x.invalid"]
    module = tmp_path / ".venv" / "history.py"
    module.parent.mkdir()
    module.touch()
    for command in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "theirs"]):
        subprocess.run([*git, *command], check=True)
    monkeypatch.setattr(bench_history, "__file__", str(module))
    assert bench_history.commit() is None
    for command in (["add", "."], ["commit", "-q", "-m", "now it does"]):
        subprocess.run([*git, *command], check=True)
    assert re.fullmatch(r"[0-9a-f]{12}", bench_history.commit() or "")


def _entry(**changes: object) -> Entry:
    data = {
        "commit": "0123456789ab",
        "date": "2026-01-31T00:00:00+00:00",
        "version": "0.2.0",
        "quick": False,
        "machine": {},
        "figures": {"lane": Figure(value=9.0, unit="LUT", target=10.0)},
    }
    return Entry.model_validate({**data, **changes})


GOOD = _entry().model_dump_json().encode()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"accuracy": 0.9}\n', r":1: .*commit: Field required"),
        (GOOD + b"\nnot JSON\n", r":2: .*Invalid JSON"),
        (GOOD[:-20], r":1: .*Invalid JSON"),
        (GOOD.replace(b"9.0", b"NaN"), r":1: .*figures: lane: value: .*finite number"),
        (GOOD.replace(b"lutvar-bench-1", b"lutvar-bench-9"), r":1: .*format: "),
        (b"[" * 100_000, r":1: .*recursion"),
        (b"\xff\xfe\n", r":1: "),
        (b"\x89PNG\r\n\x1a\n", r":1: "),
    ],
)
def test_a_foreign_or_damaged_file_is_left_alone_and_costs_no_run(
    content: bytes, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(
        bench_run, "run_benchmarks", lambda quick: pytest.fail("measured for nothing")
    )
    path = tmp_path / "history.jsonl"
    path.write_bytes(content)
    assert run(["bench", "-o", str(tmp_path / "b.json"), "--history", str(path)]) == BAD_INPUT
    error = capsys.readouterr().err
    assert re.search(re.escape(str(path)) + message, error), error
    assert error.count("\n") == 1 and "--history" in error
    assert path.read_bytes() == content


def test_a_last_line_without_its_end_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    path.write_bytes(GOOD)
    append(path, _entry(commit="fedcba987654"))
    assert [e.commit for e in read(path)] == ["0123456789ab", "fedcba987654"]
    path.write_bytes(GOOD + b"\n\n")  # an editor's empty line is nobody's entry
    append(path, _entry())
    assert len(read(path)) == 2


def test_a_later_version_may_add_keys(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    later = json.dumps({**json.loads(GOOD), "energy": 3}).encode()
    path.write_bytes(later + b"\n")
    append(path, _entry())
    assert path.read_bytes().startswith(later + b"\n")


@pytest.mark.parametrize("name", ["/dev/null", "history.png"])
def test_what_cannot_be_a_history_is_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        bench_run, "run_benchmarks", lambda quick: pytest.fail("measured for nothing")
    )
    monkeypatch.chdir(tmp_path)
    assert run(["bench", "-o", "b.json", "--history", name]) == BAD_INPUT
    assert name in capsys.readouterr().err.splitlines()[0]


def test_figures_without_target_cost_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = (Measurement("export", 3.0, "s", "timed"),)
    report = BenchmarkReport(lines, machine({}), quick=True, seconds=1.0)
    monkeypatch.setattr(bench_run, "run_benchmarks", lambda quick: report)
    path = tmp_path / "history.jsonl"
    assert run(["bench", "-o", str(tmp_path / "b.json"), "--history", str(path)]) == 0
    assert len(read(path)) == 1 and not path.with_suffix(".png").exists()
    with pytest.raises(ValueError, match="nothing to draw"):
        draw(read(path), tmp_path / "picture.png")


def test_panels_and_machines() -> None:
    later = {"new": {"value": 1.0, "unit": "s", "target": 2.0}, "free": {"value": 1.0, "unit": "s"}}
    entries = [_entry(), _entry(figures=later, machine={"cpu": "A72", "cores": 2})]
    assert panels(entries) == ["lane", "new"]
    assert [machine_name(e) for e in entries] == ["machine not recorded", "A72, 2 cores"]


def test_draw_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "history.jsonl"
    append(path, _entry())
    history_plot.main([str(path), "-o", str(tmp_path / "again.png")])
    assert (tmp_path / "again.png").exists()
    path.write_text("no\n")
    with pytest.raises(SystemExit):
        history_plot.main([str(path)])
    assert ":1: not a line of a bench history" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        history_plot.main([str(tmp_path / "missing.jsonl")])
