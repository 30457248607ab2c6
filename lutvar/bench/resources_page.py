# SPDX-License-Identifier: Apache-2.0
"""Tables of resources in docs/performance.md, from the synthesised points.

    python -m lutvar.bench.resources_page docs/performance.md

writes the text between `<!-- begin resources NAME -->` and `<!-- end resources NAME -->` again, for
each accelerator NAME that the page has such a block of, and likewise `levels NAME`.
"""

from __future__ import annotations

import re

from lutvar.contract.accelerator import AcceleratorConfig, load_accelerator
from lutvar.contract.quant_preset import GROUP
from lutvar.contract.unit_costs import UNIT_FIELDS, estimate_unit, load_points
from lutvar.sim.evidence.page import replace_block, rewrite_pages
from lutvar.sim.model.resources import DEVICE, KINDS, Line, Resources, resources

from .units import UNITS

#: What a page may have of an accelerator, each in a block of its own.
PREFIXES = ("resources", "levels")
_HEAD = (
    "| unit | LUT | DSP58 | BRAM36 | URAM | LUT levels | figures |",
    "|---|---:|---:|---:|---:|---:|---|",
)


def blocks(page: str) -> list[tuple[str, str]]:
    """(kind, accelerator) of each table of a page."""
    return re.findall(rf"<!-- begin ({'|'.join(PREFIXES)}) (\S+) -->", page)


def resources_table(config: AcceleratorConfig) -> str:
    """The resources of an accelerator as a Markdown table, with sums and limits."""
    found = resources(config)
    rows = [_row(line) for line in found.lines]
    sums = " | ".join(
        f"{found.total(kind):,} ({found.total(kind) / DEVICE[kind][0]:.1%})" for kind in KINDS
    )
    limits = " | ".join(f"{found.limit(kind):,} ({DEVICE[kind][1]:.0%})" for kind in KINDS)
    rows += [f"| sum | {sums} | | |", f"| limit | {limits} | 6 | |"]
    text = "\n".join([*_HEAD, *rows])
    lane = _lane(config, found)
    return f"{text}\n\n{lane}\n" if lane else f"{text}\n"


def levels_table(config: AcceleratorConfig) -> str:
    """Ends of paths by LUT levels, for each unit of which a size close to this was synthesised."""
    points = load_points()
    found = {}
    for name in UNIT_FIELDS:
        unit = estimate_unit(name, config, points)
        if unit is not None and unit.how in ("synthesised", "near"):
            found[name] = unit.points[0].cost.levels
    most = max((max(levels) for levels in found.values()), default=0)
    head = " | ".join(str(level) for level in range(most + 1))
    rows = [f"| unit | {head} |", f"|---|{'---:|' * (most + 1)}"]
    for name, levels in found.items():
        cells = " | ".join(f"{levels[n]:,}" if n in levels else "" for n in range(most + 1))
        rows.append(f"| {UNITS[name].title} | {cells} |")
    return "\n".join(rows) + "\n"


def _row(line: Line) -> str:
    cells = ["?" if (n := line.amounts.get(kind, 0)) is None else f"{n:,}" for kind in KINDS]
    levels = "" if line.levels is None else str(line.levels)
    return f"| {line.unit} | {' | '.join(cells)} | {levels} | {line.how} |"


def _lane(config: AcceleratorConfig, found: Resources) -> str:
    """LUTs of MATRIX for each multiplier lane, in one sentence; empty without figures."""
    array = next(line for line in found.lines if line.unit.startswith("MATRIX"))
    total = array.amounts.get("lut")
    if total is None:
        return ""
    lanes = config.rows * GROUP
    return (
        f"MATRIX has {lanes:,} multiplier lanes, {total / lanes:.2f} LUT each with everything:\n"
        f"table fill, scaling, accumulation, operands, control ({how_text(array.how)})."
    )


def how_text(how: str) -> str:
    """What a word in the column of figures means, for a sentence."""
    return "at nearly this size" if how == "near" else how


def rewritten(page: str) -> str:
    """A page with all its tables of resources written again.

    Raises:
        ConfigError: a block is of no accelerator.
        EvidenceError: a block has no end, or is there twice.
    """
    make = {"resources": resources_table, "levels": levels_table}
    for kind, name in blocks(page):
        page = replace_block(page, f"{kind} {name}", make[kind](load_accelerator(name)))
    return page


if __name__ == "__main__":
    rewrite_pages(rewritten)
