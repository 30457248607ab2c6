# SPDX-License-Identifier: Apache-2.0
"""A program in the making: random choices, room in memory, instructions so far."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from lutvar.contract.accelerator import AcceleratorConfig
from lutvar.contract.identity import accelerator_hash
from lutvar.contract.isa import (
    ALIGN,
    PAYLOAD_FIELDS,
    Instruction,
    Opcode,
    OperandField,
    Region,
    address,
    split_address,
)

from .contents import PROGRAM_OFFSET, SIZES, Fill

#: Bytes of each region that programs use; the rest of IO is the program's.
_ROOM = {**SIZES, Region.IO: PROGRAM_OFFSET}


@dataclass
class Rows:
    """Rows in memory that an instruction can read: FP16, float32, or q records ("queries")."""

    kind: str
    at: int
    stride: int
    rows: int
    size: int  # columns, or heads


@dataclass
class Cache:
    """K and V records in memory: addresses, bytes from head to head, heads and keys."""

    keys_at: int
    values_at: int
    stride: int
    heads: int
    keys: int


@dataclass
class Pieces:
    """What a program consists of so far.

    Attributes:
        instructions: without waits, END missing.
        fills: what they read.
        used: bytes of each region that are given away.
        rows: what instructions have written and others may read.
        caches: the same of K and V records.
        banks: by activation bank: rows from 0 that are filled, groups, dual, field `sections`.
        summed: blocks of columns whose sums have begun.
    """

    instructions: list[Instruction] = field(default_factory=list)
    fills: list[Fill] = field(default_factory=list)
    used: dict[Region, int] = field(default_factory=lambda: dict.fromkeys(Region, 0))
    rows: list[Rows] = field(default_factory=list)
    caches: list[Cache] = field(default_factory=list)
    banks: dict[int, tuple[int, int, int, int]] = field(default_factory=dict)
    summed: int = 0


class Full(Exception):
    """There is no memory left for this program."""


class Draft:
    """Random choices, and the pieces that they make.

    Args:
        config: the accelerator.
        rng: source of all choices.
        small: rows, groups and outputs stay small, for programs that only check the device.
    """

    def __init__(
        self, config: AcceleratorConfig, rng: np.random.Generator, *, small: bool = False
    ) -> None:
        self.config, self.rng, self.small = config, rng, small
        self.hash = accelerator_hash(config)
        self.pieces = Pieces()

    # Choices ---------------------------------------------------------------------------------
    def one_in(self, n: int) -> bool:
        """True with a probability of 1 in n."""
        return int(self.rng.integers(n)) == 0

    def upto(self, low: int, high: int) -> int:
        """A number in a range: its ends more often than the rest, small ones more often too."""
        if self.small:
            high = min(high, low + 1)
        if high <= low:
            return low
        choice = int(self.rng.integers(8))
        if choice == 0:
            return high
        if choice == 1:
            return low
        if choice < 5:
            return int(self.rng.integers(low, min(high, low + 3) + 1))
        return int(self.rng.integers(low, high + 1))

    def _seed(self) -> int:
        return int(self.rng.integers(1 << 32))

    def _random(self, item: OperandField) -> int:
        """A value for a field that does not matter: any, of the alignment that it needs."""
        value = int.from_bytes(self.rng.bytes(8), "little") & ((1 << item.width) - 1)
        if item.kind == "address" or item.name.endswith("stride"):
            value -= value % ALIGN
        return value - (1 << item.width) if item.signed and value >> item.width - 1 else value

    def emit(self, opcode: Opcode, **operands: int) -> None:
        """Add an instruction; fields without a value get random bits."""
        values = {
            item.name: operands[item.name] if item.name in operands else self._random(item)
            for item in PAYLOAD_FIELDS[opcode]
        }
        self.pieces.instructions.append(Instruction(opcode, values))

    # Memory ----------------------------------------------------------------------------------
    def space(self, region: Region, size: int, *others: Region) -> int:
        """Address of fresh bytes, a few lines after those before; now and then elsewhere."""
        if others and self.one_in(6):
            other = others[int(self.rng.integers(len(others)))]
            if self.pieces.used[other] + 4 * ALIGN + size <= _ROOM[other]:
                region = other
        at = self.pieces.used[region] + ALIGN * int(self.rng.integers(4))
        if at + size > _ROOM[region]:
            raise Full
        self.pieces.used[region] = at + size
        return address(region, at)

    def fill(self, kind: str, where: int, *sizes: int) -> None:
        """Let memory be filled at an address; see `Fill`."""
        region, offset = split_address(where)
        self.pieces.fills.append(Fill(kind, region, offset, self._seed(), sizes))

    def stride(self, size: int) -> int:
        """Bytes from row to row, for rows of so many bytes."""
        return size + ALIGN * (int(self.rng.integers(1, 4)) if self.one_in(3) else 0)

    def input(self, kind: str, rows: int, columns: int, content: str = "") -> Rows:
        """Fresh rows, "half" or "float", in IO as a rule; `content`: another kind of `Fill`."""
        size = columns * (4 if kind == "float" else 2)
        stride = 0 if self.one_in(12) else self.stride(size)
        where = self.space(Region.IO, stride * (rows - 1) + size, Region.CACHE, Region.MODEL)
        count = (stride * (rows - 1) + size) // (4 if kind == "float" else 2)
        self.fill(content or kind, where, count)
        return Rows(kind, where, stride, rows, columns)

    def output(self, kind: str, rows: int, columns: int) -> Rows:
        """Room for rows, in WORK or IO as a rule."""
        size = columns * (4 if kind == "float" else 2)
        stride = self.stride(size)
        region = Region.IO if self.one_in(3) else Region.WORK
        where = self.space(region, stride * (rows - 1) + size, Region.CACHE)
        return Rows(kind, where, stride, rows, columns)
