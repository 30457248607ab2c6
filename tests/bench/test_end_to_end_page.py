# SPDX-License-Identifier: Apache-2.0
"""The tables from class to pixels: they add up, README says the same, and the page is current."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lutvar.bench.end_to_end_page import blocks, rewritten, table
from lutvar.contract.accelerator import load_accelerator
from lutvar.contract.shape import TransformerShape
from lutvar.sim.evidence.page import rewrite_pages
from lutvar.sim.evidence.records import EvidenceError
from lutvar.sim.model.end_to_end import EndToEnd
from lutvar.sim.model.hosts import HostTimes
from lutvar.sim.model.many import Request, estimate_one

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "performance.md"
SMALL = TransformerShape(256, 2, 4, 1024, 512, (1, 2, 4))


def _rows(page: str, name: str) -> list[list[str]]:
    begin, end = f"<!-- begin end-to-end {name} -->", f"<!-- end end-to-end {name} -->"
    lines = page.split(begin)[1].split(end)[0].strip().splitlines()[2:]
    return [[cell.strip(" *") for cell in line.split("|")[1:-1]] for line in lines]


@pytest.mark.parametrize("name", ["vck190-fp4", "vck190-fp6"])
def test_the_page_adds_up(name: str) -> None:
    """And its hosts are those of hosts.yaml."""
    shape = TransformerShape.official("d30")
    rows = _rows(PAGE.read_text(encoding="utf-8"), name)
    assert len(rows) == 4
    for _, host, *cells, both in rows:
        *parts, turns = map(float, cells)
        assert sum(parts) / 1000 == pytest.approx(1 / turns, abs=0.006 / turns**2 + 0.003)
        times = HostTimes.of(host, shape).parts(device_decodes=True)
        assert sum(parts[2:]) == pytest.approx(1000 * sum(times.values()), abs=2)
        if both:
            limit = max(sum(parts[:2]), sum(parts[2:])) / 1000
            assert float(both) == pytest.approx(1 / limit, rel=0.02)


def test_readme_has_the_figures_of_the_page() -> None:
    rows = {(r[0], r[1]): r for r in _rows(PAGE.read_text(encoding="utf-8"), "vck190-fp4")}
    readme = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    alone, together = rows["one image", "a72"], rows["staggered", "a72"]
    found = re.search(r"\*\*(\d\.\d\d) images a second\*\* from class to pixels", readme)
    assert found is not None and found[1] == alone[-2]
    assert f"Staggered it is {together[-2]}" in readme and f"{together[-1]} if" in readme
    # Of the table of waits: three groups, each with its own maps, one core of the A72.
    waits = re.search(r"^\| 3 \| 3 \| (\d\.\d\d) \|", PAGE.read_text(encoding="utf-8"), re.M)
    assert waits is not None and f"(`--stagger 1 --groups 3`) {waits[1]}" in readme


@pytest.mark.slow
def test_the_page_is_current() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert blocks(page) == ["vck190-fp4", "vck190-latency-fp4", "vck190-fp6"]
    assert page == rewritten(page), (
        "out of date; run: python -m lutvar.bench.end_to_end_page docs/performance.md"
    )


def test_a_row(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    config = load_accelerator("small-fp4")
    e = estimate_one(Request(config, SMALL, "mini", "stagger"))
    whole = EndToEnd(e, HostTimes.of("a72", SMALL), 0.25)
    row = table([whole]).splitlines()[2]
    assert "| staggered | a72 |" in row and "| 250 |" in row
    assert f"**{whole.images_per_second:.2f}** | {whole.overlapped:.2f} |" in row
    assert "| host |" in table([EndToEnd(e, whole.host, None)]).splitlines()[2]
    monkeypatch.setattr("lutvar.bench.end_to_end_page.images", lambda _config: [whole])
    path = tmp_path / "page.md"
    mark = "end-to-end small-fp4"
    path.write_text(f"a\n<!-- begin {mark} -->\nold\n<!-- end {mark} -->\n")
    rewrite_pages(rewritten, [str(path)])
    assert row in path.read_text() and "old" not in path.read_text()
    with pytest.raises(EvidenceError):
        rewritten(f"<!-- begin {mark} -->")
