# SPDX-License-Identifier: Apache-2.0
"""The table of proofs in docs/verification.md, between two comments that name it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from lutvar.files import write_file
from lutvar.sim.evidence.page import replace_block
from lutvar.sim.run.document import Table, to_markdown

from .proofs import PROPERTIES
from .run import FormalError, Result

BLOCK = "formal"


def proofs_table(results: Sequence[Result]) -> Table:
    """Property, module, engine, how far it holds, time, and what breaks it."""
    rows = []
    for result in results:
        item = PROPERTIES[result.name]
        mutants = ", ".join(m.name for m in item.mutants)
        rows.append([
            f"`{item.name}`", item.module, item.statement, result.engine, result.reach,
            f"{result.requirements} + {result.lemmas}", f"{result.seconds:.1f} s", mutants or "",
        ])  # fmt: skip
    return Table(
        ["property", "module", "what holds", "engine", "depth", "conditions + lemmas", "time",
         "faults that break it"],
        rows,
    )  # fmt: skip


def write_page(page: Path, results: Sequence[Result]) -> None:
    """Put the table into a page.

    Raises:
        FormalError: a property is missing or not proved: such a table would mislead.
        EvidenceError: the page has no place for it.
    """
    proved = {result.name for result in results if result.status == "proved"}
    if missing := [name for name in PROPERTIES if name not in proved]:
        raise FormalError(
            f"{missing[0]} is not proved in this run ({len(missing)} of {len(PROPERTIES)}); the "
            "page lists all properties: run `lutvar formal` without names until all are proved"
        )
    text = page.read_text(encoding="utf-8")
    write_file(page, replace_block(text, BLOCK, to_markdown([proofs_table(results)])))


def listed(page: str) -> list[str]:
    """Names of the properties in a page's table."""
    block = page.partition(f"<!-- begin {BLOCK} -->")[2].partition(f"<!-- end {BLOCK} -->")[0]
    return re.findall(r"^\| `([^`]+)` ", block, flags=re.MULTILINE)
