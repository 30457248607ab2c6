# SPDX-License-Identifier: Apache-2.0
"""Tables of resources: sums by hand, and the page as the points have it."""

from __future__ import annotations

from pathlib import Path

import pytest

from lutvar.bench.resources_page import blocks, levels_table, resources_table, rewritten
from lutvar.contract.unit_costs import estimate_unit, load_points
from lutvar.sim.evidence.page import rewrite_pages
from lutvar.sim.evidence.records import EvidenceError
from lutvar.sim.model.resources import resources
from support.host.compile_cases import accelerator

PAGE = Path(__file__).parents[2] / "docs" / "performance.md"


def test_the_page_is_what_the_points_say() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert ("resources", "vck190-fp4") in blocks(page) and ("levels", "vck190-fp4") in blocks(page)
    assert page == rewritten(page), (
        "out of date; run: python -m lutvar.bench.resources_page docs/performance.md"
    )


def test_the_table_adds_up() -> None:
    config = accelerator("vck190-fp4")
    lines = resources_table(config).splitlines()
    cells = {line.split("|")[1].strip(): line.split("|")[2:] for line in lines if "|" in line}
    units = set(cells) - {"unit", "---", "sum", "limit"}
    luts = [int(cells[name][0].replace(",", "")) for name in units]
    total = resources(config).total("lut")
    assert sum(luts) == total and f"{total:,} ({total / 899_840:.1%})" in cells["sum"][0]
    assert cells["limit"][0].strip() == "629,888 (70%)"
    lane = int(cells[f"MATRIX, {config.row_groups} row groups"][0].replace(",", ""))
    assert f"{lane / (config.rows * 128):.2f} LUT each with everything" in "\n".join(lines)


def test_levels_are_those_of_the_points() -> None:
    config = accelerator("vck190-fp4")
    found = estimate_unit("front", config, load_points())
    assert found is not None
    levels = found.points[0].cost.levels
    (row,) = [line for line in levels_table(config).splitlines() if line.startswith("| FRONT |")]
    assert [c.strip() for c in row.split("|")[2 : 2 + len(levels)]] == [
        f"{n:,}" for n in levels.values()
    ]


def test_writing_a_page(tmp_path: Path) -> None:
    path = tmp_path / "page.md"
    path.write_text(
        "a\n<!-- begin resources vck190-fp4 -->\nold\n<!-- end resources vck190-fp4 -->\n"
    )
    rewrite_pages(rewritten, [str(path)])
    text = path.read_text()
    assert text.startswith("a\n<!-- begin") and "| FRONT |" in text and "old" not in text
    with pytest.raises(EvidenceError):
        rewritten("<!-- begin levels vck190-fp4 -->")
