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

Counts = NDArray[np.int64]  #: [units]


class Cells:
    """A tensor's cells, any shape: count of the last write and last read by each unit."""

    def __init__(self, *shape: int) -> None:
        self.written = np.zeros((len(UNITS), *shape), np.int64)
        self.read = np.zeros((len(UNITS), *shape), np.int64)


class Access(NamedTuple):
    """Part of a tensor's cells: slices or indices of its leading dimensions."""

    cells: Cells
    part: tuple[Any, ...]

    @property
    def every(self) -> tuple[Any, ...]:
        return (slice(None), *self.part)

    def of(self, unit: Unit) -> tuple[Any, ...]:
        """Index of one unit's counts."""
        return (int(unit), *self.part)


def _last(counts: NDArray[np.int64]) -> Counts:
    return counts.reshape(len(UNITS), -1).max(axis=1)


def needed(reads: Iterable[Access], writes: Iterable[Access]) -> Counts:
    """Completed instructions of each unit that an instruction with these accesses needs."""
    need = np.zeros(len(UNITS), np.int64)
    for access in reads:
        np.maximum(need, _last(access.cells.written[access.every]), out=need)
    for access in writes:
        np.maximum(need, _last(access.cells.written[access.every]), out=need)
        np.maximum(need, _last(access.cells.read[access.every]), out=need)
    return need


def record(unit: Unit, count: int, reads: Iterable[Access], writes: Iterable[Access]) -> None:
    """The `count`-th instruction of a unit has these accesses."""
    for access in reads:
        access.cells.read[access.of(unit)] = count
    for access in writes:
        access.cells.written[access.of(unit)] = count
