# SPDX-License-Identifier: Apache-2.0
"""Who wrote and read what last: the order that a program must keep.

Instructions are counted for each unit, from 1. A `Cells` holds one tensor's cells, rows by
columns; an access is a span of rows in one column, in a range of columns, or in all. Reading needs
all that wrote these cells before; writing needs all that wrote or read them. Accesses are recorded
in program order, so a unit's counts only grow: the latest count of a row in any column is also the
largest, and a row's accesses to all columns need one number only.

Plain lists: most accesses are of 16 rows or fewer, where an array costs more than its contents.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from lutvar.contract.isa import UNITS, Unit

Counts = list[int]  #: by unit
#: One line of counts: of each row.
_Line = list[int]


class Cells:
    """A tensor's cells: counts of the last write and the last reads.

    Args:
        rows, columns: how many.
        writer: the unit that writes it; no other does.
        readers: the units that read it.
    """

    def __init__(self, rows: int, columns: int, writer: Unit, readers: Iterable[Unit]) -> None:
        self.rows, self.columns, self.writer = rows, columns, int(writer)
        self.readers = tuple(int(unit) for unit in readers)
        self.written: list[_Line] = [[0] * rows for _ in range(columns)]
        self.written_any: _Line = [0] * rows
        #: Reads of all columns, by unit; reads of single ones, by unit and column, once there are
        #: any.
        self.read_all: dict[int, _Line] = {unit: [0] * rows for unit in self.readers}
        self.read: dict[int, list[_Line]] = {}


class Access(NamedTuple):
    """Rows `first .. end - 1` of columns `low .. high - 1`; `high` 0: of all columns."""

    cells: Cells
    first: int
    end: int
    low: int = 0
    high: int = 0


def needed(reads: Iterable[Access], writes: Iterable[Access]) -> Counts:
    """Completed instructions of each unit that an instruction with these accesses needs."""
    need = [0] * len(UNITS)
    for cells, first, end, low, high in reads:
        unit = cells.writer
        if high:
            for line in cells.written[low:high]:
                count = max(line[first:end])
                if count > need[unit]:
                    need[unit] = count
        else:
            count = max(cells.written_any[first:end])
            if count > need[unit]:
                need[unit] = count
    for cells, first, end, low, high in writes:
        unit = cells.writer
        for line in cells.written[low : high or None]:
            count = max(line[first:end])
            if count > need[unit]:
                need[unit] = count
        for unit, line in cells.read_all.items():
            count = max(line[first:end])
            if count > need[unit]:
                need[unit] = count
        for unit, lines in cells.read.items():
            for line in lines[low : high or None]:
                count = max(line[first:end])
                if count > need[unit]:
                    need[unit] = count
    return need


def record(unit: int, count: int, reads: Iterable[Access], writes: Iterable[Access]) -> None:
    """The `count`-th instruction of a unit has these accesses."""
    for cells, first, end, low, high in reads:
        counts = [count] * (end - first)
        if not high:
            cells.read_all[unit][first:end] = counts
            continue
        if unit not in cells.read:
            cells.read[unit] = [[0] * cells.rows for _ in range(cells.columns)]
        for line in cells.read[unit][low:high]:
            line[first:end] = counts
    for cells, first, end, low, high in writes:
        assert unit == cells.writer, f"{Unit(unit).name} writes cells of another unit"
        counts = [count] * (end - first)
        for line in cells.written[low : high or None]:
            line[first:end] = counts
        cells.written_any[first:end] = counts
