# SPDX-License-Identifier: Apache-2.0
"""The table of records in docs/verification.md, between two comments that name it."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from lutvar.files import write_file
from lutvar.sim.run.document import Table, to_markdown

from .records import EvidenceError, Record, lines, read_lines

BLOCK = "evidence"


def evidence_table(records: Sequence[Record]) -> Table:
    """What ran, what it compared, what it took."""
    return Table(
        ["accelerator; work", "values compared", "differ", "cycles", "cycle model", "simulated in",
         "cycles a second", "Verilog"],
        [
            [
                f"{r['config']}; {r['what']}", f"{r['values']:,}", f"{r['values_different']:,}",
                f"{r['cycles']:,}", f"{100 * (r['modelled'] / r['cycles'] - 1):+.2f} %",
                _time(r["simulate_seconds"]),
                f"{r['cycles'] / r['simulate_seconds']:,.0f}", f"`{r['key']['verilog'][:8]}`",
            ]
            for r in records
        ],
    )  # fmt: skip


def evidence_block(records: Sequence[Record]) -> str:
    """The table and one sentence about where it comes from."""
    if not records:
        return "No record yet.\n"
    hosts = sorted({f"{r['host']['processor']}, {r['host']['cores']} cores" for r in records})
    versions = sorted({str(r["key"]["lutvar"]) for r in records})
    dates = sorted(str(r["date"])[:10] for r in records)
    span = dates[0] if dates[0] == dates[-1] else f"{dates[0]} to {dates[-1]}"
    return (
        to_markdown([evidence_table(records)])
        + f"\nlutvar {', '.join(versions)}, {span}, on {'; '.join(hosts)}.\n"
    )


def replace_block(page: str, name: str, content: str) -> str:
    """A page with the text between `<!-- begin NAME -->` and `<!-- end NAME -->` replaced.

    Raises:
        EvidenceError: the page has no such comments, or several.
    """
    begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
    if page.count(begin) != 1 or page.count(end) != 1:
        raise EvidenceError(f"the page needs {begin!r} and {end!r} once each, for the table")
    pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.S)
    return pattern.sub(lambda _: f"{begin}\n\n{content}\n{end}", page)


def rewrite_pages(rewritten: Callable[[str], str], arguments: Sequence[str] | None = None) -> None:
    """Write pages again, as `python -m` of a module that makes tables.

    Args:
        rewritten: a page's text with its tables made anew.
        arguments: paths; default: those of the command line.
    """
    for path in map(Path, sys.argv[1:] if arguments is None else arguments):
        write_file(path, rewritten(path.read_text(encoding="utf-8")))


def update_page(page: Path, records: Sequence[Record]) -> int:
    """Put records into `<name of the page's folder>/evidence.jsonl` and show all of that file.

    A record replaces that of the same item; others stay. Returns how many there are.
    """
    file = page.with_name("evidence.jsonl")
    before = read_lines(file) if file.exists() else []
    merged = {r["name"]: r for r in [*before, *records]}
    from .items import ITEMS

    order = {item.name: i for i, item in enumerate(ITEMS)}
    kept = sorted(merged.values(), key=lambda r: order.get(r["name"], len(order)))
    text = replace_block(page.read_text(encoding="utf-8"), BLOCK, evidence_block(kept))
    write_file(file, lines(kept))
    write_file(page, text)
    return len(kept)


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
