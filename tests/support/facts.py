# SPDX-License-Identifier: Apache-2.0
"""The table of what is known about Vivado and the card, `tests/vivado/facts.tsv`."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple


class Fact(NamedTuple):
    kind: str
    owner: str
    name: str
    value: str
    source: str


_TABLE = Path(__file__).parents[1] / "vivado" / "facts.tsv"
FACTS = [
    Fact(*line.split("\t"))
    for line in _TABLE.read_text(encoding="utf-8").splitlines()
    if not line.startswith("#")
]


def holds(kind: str, owner: str, name: str, value: str = "") -> Fact | None:
    """The fact that says so."""
    for fact in FACTS:
        if (fact.kind, fact.owner) != (kind, owner) or not fnmatchcase(name, fact.name):
            continue
        if not fact.value or re.fullmatch(fact.value, value):
            return fact
    return None
