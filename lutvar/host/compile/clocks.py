# SPDX-License-Identifier: Apache-2.0
"""What an instruction may rely on when it starts: counts of completed instructions.

An instruction starts after the one before it on its unit, and after the counts that it waits for
have been reached. Units complete their instructions in order. So what holds when it starts is the
largest of what held for those, count by count: a vector clock.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lutvar.contract.isa import UNITS, Unit

#: The device compares counts modulo 2**16 by the sign of their difference.
WRAP = 1 << 16


class Clocks:
    """Vector clocks of a program, instruction by instruction in program order."""

    def __init__(self) -> None:
        self._clocks: list[list[tuple[int, ...]]] = [[] for _ in UNITS]
        self._last: list[tuple[int, ...]] = [(0,) * len(UNITS) for _ in UNITS]

    def count(self, unit: Unit) -> int:
        """Instructions of a unit so far."""
        return len(self._clocks[unit])

    def last(self, unit: Unit) -> tuple[int, ...]:
        """What is known when the unit's latest instruction starts."""
        return self._last[unit]

    def add(self, unit: Unit, waits: Sequence[int]) -> tuple[int, ...]:
        """The next instruction of a unit waits for these counts; what is known when it starts.

        Raises ValueError when it waits for an instruction that comes later in the program.
        """
        clock = last = self._last[unit]
        for other, count in enumerate(waits):
            if count <= last[other]:
                continue  # known since an earlier instruction
            if count > len(self._clocks[other]):
                raise ValueError(
                    f"{unit.name} {len(self._clocks[unit])} waits for {count} instructions of "
                    f"{UNITS[other].name}; only {len(self._clocks[other])} come before it"
                )
            clock = tuple(map(max, clock, self._clocks[other][count - 1]))
        if clock is not last:
            clock = tuple(map(max, clock, waits))
        self._clocks[unit].append(clock)
        self._last[unit] = clock
        return clock

    def at(self, unit: Unit, index: int) -> tuple[int, ...]:
        """What is known when instruction `index` (from 0) of a unit starts."""
        return self._clocks[unit][index]

    def lead(self, unit: Unit, other: Unit) -> int:
        """The largest lead of `other` over what the unit's instructions wait for or know.

        The largest, over the unit's instructions, of how many instructions of `other` may be
        complete before this one is, less what it knows. Counts only compare right below 2**15.
        """
        mine, theirs = self._clocks[unit], self._clocks[other]
        if not mine or not theirs:
            return 0
        waited = np.array([k[unit] for k in theirs])  # of mine, complete before each of theirs
        clock = np.array([k[other] for k in mine])
        # Instruction i of mine is incomplete as long as theirs with waited <= i run.
        ahead = np.searchsorted(waited, np.arange(len(mine)), side="right")
        return int((ahead - clock).max())
