# SPDX-License-Identifier: Apache-2.0
"""Front and picks, by hand; what is said when nothing fits."""

from __future__ import annotations

from pathlib import Path

import pytest

from lutvar.contract.accelerator import load_accelerator
from lutvar.sim.explore.front import pareto, pick, require_feasible, write_pick
from lutvar.sim.explore.picture import draw_front
from lutvar.sim.explore.space import ExploreError, Limits
from lutvar.sim.explore.trial import Worth, evaluate
from support.sim.explore import space, task

OBJECTIVES = ["latency", "throughput", "per_lut", "kl"]


def worth(
    name: int, single: float, throughput: float, lut: int = 100, kl: float = 0.0,
    excess: float = -0.5,
) -> Worth:  # fmt: skip
    return Worth(
        {"rows": name}, {"lut": excess, "dsp": -0.9}, used={"lut": lut}, latency=1 / single,
        single=single, throughput=throughput, kl=kl, bound=("MATRIX", "ATTEND"),
    )  # fmt: skip


def test_the_front_by_hand() -> None:
    a, b, c = worth(1, 2.0, 3.0), worth(2, 1.0, 4.0), worth(3, 1.0, 3.0)
    assert pareto([c, b, a], OBJECTIVES) == [a, b]  # c is beaten by both
    better = worth(4, 0.5, 3.0, kl=-1.0)
    assert pareto([a, b, c, better], OBJECTIVES) == [a, b, better]
    assert pareto([a, b, c, better], OBJECTIVES[:3]) == [a, b]
    twin = worth(5, 2.0, 3.0)
    assert pareto([a, twin], OBJECTIVES) == [a]
    smaller = worth(6, 2.0, 3.0, lut=50)
    assert pareto([a, smaller], OBJECTIVES) == [smaller]
    assert pareto([worth(7, 9.0, 9.0, excess=0.01), a], OBJECTIVES) == [a]
    assert pareto([worth(7, 9.0, 9.0, excess=0.01)], OBJECTIVES) == []


def test_picks_by_hand() -> None:
    front = [worth(1, 2.0, 3.0), worth(2, 1.0, 4.0), worth(3, 1.7, 3.8), worth(4, 1.999, 3.0, 90)]
    assert pick(front, "throughput").values == {"rows": 2}
    assert pick(front, "balanced").values == {"rows": 3}
    assert pick(front, "latency").values == {"rows": 4}  # within 0.2 %, with fewer LUTs


def test_the_file_of_a_pick(tmp_path: Path) -> None:
    one = task()
    found = evaluate(one, {"rows": 48, "attention_rows": 5, "act_banks": 3, "clock": 200.0})
    path = tmp_path / "mine.yaml"
    config = write_pick(path, one, found, "latency", "lutvar explore --pick latency")
    assert config == load_accelerator(path)
    wanted = {"name": "mine", "rows": 48, "attention_rows": 5, "act_banks": 3}
    assert config.model_dump() == load_accelerator("small-fp4").model_dump() | wanted
    text = path.read_text()
    assert "# lutvar explore --pick latency" in text and "modelled" in text
    assert f"{found.single:.2f} image/s alone" in text
    assert [file.name for file in tmp_path.iterdir()] == ["mine.yaml"]


def test_nothing_within_the_limits() -> None:
    with pytest.raises(ExploreError, match="nothing was tried"):
        require_feasible([])
    tight = task(space=space(limits=Limits(lut=0.2)))
    tried = [evaluate(tight, values) for values in tight.space.candidates()]
    # 16 rows, one query row: 4,000 + 50,000 + 60,000 + 70,000 LUTs of 179,968.
    with pytest.raises(ExploreError, match=r"none of 160 .* LUTs by 2\.2 % \(rows 16, att"):
        require_feasible(tried)
    require_feasible([*tried, worth(1, 1.0, 1.0)])
    forms = space(fields={"dot": ["da"], "rows": [16]})
    (found,) = [evaluate(task(space=forms), v) for v in forms.candidates()]
    assert not found.feasible and "MATRIX" in found.reason
    with pytest.raises(ExploreError, match="not synthesised: MATRIX"):
        require_feasible([found])
    # Sizes that the model does not fit into, and values that exclude each other.
    shallow = space(fields={"acc_depth": [128], "max_width": [128], "bank_groups": [1]})
    (found,) = [evaluate(task(space=shallow), v) for v in shallow.candidates()]
    assert found.feasible
    wrong = space(fields={"attention_rows": [1], "attention_dsp_rows": [2]})
    (found,) = [evaluate(task(space=wrong), v) for v in wrong.candidates()]
    assert found.excess == {"rules": 10.0} and "attention_dsp_rows is 2" in found.reason
    with pytest.raises(ExploreError, match="exclude each other: attention_dsp_rows is 2"):
        require_feasible([found])


def test_bandwidth_is_a_limit() -> None:
    values = {"rows": 48, "attention_rows": 5, "act_banks": 3, "clock": 250.0}
    free = evaluate(task(), values)
    assert free.feasible and 0 < free.link_gbs < free.gbs < 68
    narrow = task(space=space(limits=Limits(link_gbs=free.link_gbs * 0.9)))
    found = evaluate(narrow, values)
    assert not found.feasible and found.excess["link"] == pytest.approx(1 / 0.9 - 1)
    slow = task(space=space(limits=Limits(memory_gbs=free.gbs * 0.8)))
    assert evaluate(slow, values).excess["memory"] == pytest.approx(0.25)
    few = task(space=space(limits=Limits(noc_ports=5)))
    assert evaluate(few, values).excess["noc_ports"] == pytest.approx(6 / 5 - 1)


def test_the_picture(tmp_path: Path) -> None:
    one = task()
    worths = [worth(1, 2.0, 3.0), worth(2, 1.0, 4.0), worth(3, 1.0, 3.0)]
    path = tmp_path / "front.png"
    draw_front(path, one, worths, pareto(worths, OBJECTIVES))
    assert path.read_bytes().startswith(b"\x89PNG")
