# SPDX-License-Identifier: Apache-2.0
"""Who wrote and read what last: the order that a program must keep.

Instructions are counted for each unit, from 1. A `Cells` holds one tensor's cells; an
access is a part of it. Reading needs all that wrote these cells before; writing needs all that
wrote or read them. Accesses are recorded in program order.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lutvar.contract.isa import UNITS, Unit

Counts = list[int]  #: by unit


class Cells:
    """A tensor's cells, any shape: count of the last write and last read by each unit."""

    def __init__(self, *shape: int) -> None:
        self.both = np.zeros((2, len(UNITS), *shape), np.int64)
        self.written, self.read = self.both


class Access(NamedTuple):
    """Part of a tensor's cells: slices or indices of its leading dimensions."""

    cells: Cells
    part: tuple[Any, ...]

    def of(self, unit: Unit) -> tuple[Any, ...]:
        """Index of one unit's counts."""
        return (int(unit), *self.part)


def _last(counts: NDArray[np.int64], lines: int) -> list[int]:
    # The reduction itself; the method of the same meaning costs as much again for one so small.
    last: list[int] = np.maximum.reduce(counts.reshape(lines, -1), axis=1).tolist()
    return last


def needed(reads: Iterable[Access], writes: Iterable[Access]) -> Counts:
    """Completed instructions of each unit that an instruction with these accesses needs."""
    count = len(UNITS)
    need = [0] * count
    for cells, part in reads:
        index = (slice(None), *part)
        last = _last(cells.written[index], count)
        need = list(map(max, need, last))
    for cells, part in writes:
        both = (slice(None), slice(None), *part)
        last = _last(cells.both[both], 2 * count)
        need = list(map(max, need, last[:count], last[count:]))
    return need


def record(unit: Unit, count: int, reads: Iterable[Access], writes: Iterable[Access]) -> None:
    """The `count`-th instruction of a unit has these accesses."""
    for access in reads:
        access.cells.read[access.of(unit)] = count
    for access in writes:
        access.cells.written[access.of(unit)] = count
