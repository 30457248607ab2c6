# SPDX-License-Identifier: Apache-2.0
"""An instruction on its way to the program: what it does and touches, before it has its waits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from lutvar.contract.isa import Opcode

from .hazards import Access
from .model_layout import HEAD
from .steps import Rows


class Operation(NamedTuple):
    """A tile of rows through one layer; blocks come in order, then the head."""

    tile: int
    block: int
    site: str

    def __str__(self) -> str:
        return self.site if self.site == HEAD else f"block{self.block}.{self.site}"


@dataclass(slots=True)
class Draft:
    """An instruction without its waits, and the cells that it reads and writes."""

    opcode: Opcode
    operands: dict[str, int]
    operation: Operation
    rows: Rows
    reads: tuple[Access, ...] = ()
    writes: tuple[Access, ...] = ()
    #: Written too, but in an order that the unit itself keeps.
    extends: tuple[Access, ...] = ()
