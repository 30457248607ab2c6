# SPDX-License-Identifier: Apache-2.0
"""Coverage as data, as text, and as a part of docs/verification.md."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lutvar
from lutvar.files import json_text, write_file
from lutvar.sim.evidence.page import replace_block
from lutvar.sim.run.document import Table, to_markdown
from lutvar.text import wrap_page

from .bins import Bin
from .points import Counts, Share, share, shares, uncovered
from .run import Coverage

BLOCK = "coverage"
_FSM = "fsm_"


def as_dict(coverage: Coverage) -> dict[str, Any]:
    """Everything as plain data, what is not covered by name."""
    transitions = _transitions(coverage.points)
    plain = {p: n for p, n in coverage.points.items() if not p.name.startswith(_FSM)}
    groups: dict[str, dict[str, int]] = defaultdict(dict)
    for bin_, count in coverage.bins.items():
        groups[bin_.group][bin_.name] = count
    by_module: dict[str, dict[str, tuple[int, int]]] = defaultdict(dict)
    for (module, kind), part in shares(plain).items():
        by_module[module][kind] = (part.covered, part.total)
    return {
        "format": "lutvar-coverage-1",
        "lutvar": lutvar.__version__,
        "configs": coverage.configs,
        "testbenches": {name: len(rows) for name, rows in coverage.results.items()},
        "failed": [row.bench for rows in coverage.results.values() for row in rows
                   if not row.passed],
        "image_values": coverage.image_values,
        "random_programs": coverage.random_programs,
        "deviations": coverage.deviations,
        "shares": {kind: _pair(share(plain, kind)) for kind in ("line", "branch", "toggle")},
        "modules": by_module,
        "uncovered_signals": {
            f"{module}.{signal}": bits for (module, signal), bits in uncovered(plain).items()
        },
        "uncovered_lines": _lines(plain),
        "transitions": transitions,
        "bins": groups,
    }  # fmt: skip


def _pair(part: Share) -> tuple[int, int]:
    return part.covered, part.total


def _lines(points: Counts) -> dict[str, list[str]]:
    """Module -> lines and branches that never ran, as "configuration:line:what"."""
    missing: dict[str, list[str]] = defaultdict(list)
    for point, count in sorted(points.items()):
        if point.kind in ("line", "branch") and not count:
            missing[point.module].append(point.name)
    return missing


def _transitions(points: Counts) -> dict[str, dict[str, int]]:
    """Module -> transition -> how often it was taken."""
    found: dict[str, dict[str, int]] = defaultdict(dict)
    for point, count in points.items():
        name = point.name.partition(":")[0].partition("[")[0]
        if point.kind == "toggle" and "_to_" in name and name.startswith(_FSM):
            text = name.removeprefix(_FSM).replace("_to_", " -> ")
            before = found[point.module].get(text)
            found[point.module][text] = count if before is None else min(before, count)
    return found


def block(data: Mapping[str, Any]) -> str:
    """The part of the page: shares by kind, then what is missing."""
    bins = {Bin(g, n): c for g, names in data["bins"].items() for n, c in names.items()}
    fields = {b: c for b, c in bins.items() if "." in b.group}
    others = {b: c for b, c in bins.items() if "." not in b.group}
    steps = {(m, t): c for m, names in data["transitions"].items() for t, c in names.items()}
    rows = [
        [what, str(Share(*data["shares"][kind]))]
        for kind, what in (
            ("line", "lines of the Verilog"), ("branch", "branches"),
            ("toggle", "bits of named signals, rising and falling"),
        )
    ]  # fmt: skip
    for what, counts in (
        ("transitions of state machines", steps), ("bins of instruction fields", fields),
        ("error codes, header and instruction rules", others),
    ):  # fmt: skip
        rows.append([what, str(Share(sum(c > 0 for c in counts.values()), len(counts)))])
    compared, different = data["image_values"]
    sources = [f"{n} testbenches on {name}" for name, n in data["testbenches"].items()]
    if compared:
        sources.append(f"images ({compared:,} values, {different:,} differ)")
    if data["random_programs"]:
        sources.append(
            f"{data['random_programs']} random programs of `lutvar fuzz` on each "
            f"({data['deviations']} deviate)"
        )
    parts = [
        to_markdown([Table(["what", "covered"], rows)]).rstrip(),
        f"From {', '.join(sources)}.",
        "Not covered, by group:\n\n",
    ]
    missing: dict[str, list[str]] = defaultdict(list)
    for bin_, count in bins.items():
        if not count:
            missing[bin_.group].append(bin_.name)
    for (module, step), count in steps.items():
        if not count:
            missing[f"state machine of {module}"].append(step)
    signals: dict[str, int] = defaultdict(int)
    for name in data["uncovered_signals"]:
        signals[name.partition(".")[0]] += 1
    lines = [f"* `{group}`: {', '.join(names)}" for group, names in sorted(missing.items())]
    many = sorted(signals.items(), key=lambda item: (-item[1], item[0]))
    listed = ", ".join(f"`{module}` {count}" for module, count in many[:12])
    more = f" and {len(many) - 12} more modules" if len(many) > 12 else ""
    lines.append(f"* signals with a bit that never toggled, by module: {listed}{more}")
    return "\n\n".join(parts) + wrap_page("\n".join(lines)) + "\n"


def write_report(coverage: Coverage, folder: Path) -> dict[str, Any]:
    """Write `coverage.json` and `coverage.md` into a folder; returns the data."""
    data = as_dict(coverage)
    write_file(folder / "coverage.json", json_text(data, indent=1) + "\n")
    write_file(folder / "coverage.md", block(data))
    return data


def update_page(page: Path, data: Mapping[str, Any]) -> None:
    """Show the figures in a page, and keep the data, the uncovered list included, beside it."""
    text = replace_block(page.read_text(encoding="utf-8"), BLOCK, wrap_page(block(data)))
    write_file(page.with_name("coverage.json"), json_text(data, indent=1) + "\n")
    write_file(page, text)
