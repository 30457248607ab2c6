# SPDX-License-Identifier: Apache-2.0
"""How columns of bits are added: which carry chains and counters, level by level.

A *chain* is a row of full adders with a carry, two LUT sites for each pair of columns. In a pair it
takes up to four bits of the lower column and one of the upper: the low LUT adds the parity of
three bits to the fourth, the high one their majority to the bit of its own. Neither reads more
than four signals besides the carry, which is what a LUT with carry logic has on Versal (more would
fit on UltraScale+). Two bits remain for five, and one more at the end, for which a bit may go in as
the chain's first carry: a LUT site removes 1.5 bits. A counter of three bits removes one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

#: LUT sites that a level less is worth: for its registers.
_LEVEL = 4
#: Columns of at most this height are worth a search; above it chains alone are used.
_SMALL = 12
_MAX_LEVELS = 12


@dataclass(frozen=True)
class Chain:
    """A carry chain.

    Attributes:
        start: its lowest column.
        counts: bits that it takes of each column from there on. With three or four the column is
            the lower one of a pair, and the next entry belongs to the upper one; others stand
            alone.
        carry: it takes one more bit of the lowest column.
    """

    start: int
    counts: tuple[int, ...]
    carry: bool


@dataclass(frozen=True)
class Level:
    """What happens between two registers: equal chains with their number, counters of three bits
    in each column, and the heights of the columns behind it."""

    chains: tuple[tuple[Chain, int], ...]
    threes: tuple[int, ...]
    heights: tuple[int, ...]

    @property
    def sites(self) -> int:
        """LUT sites."""
        return sum(len(chain.counts) * n for chain, n in self.chains) + sum(self.threes)


@dataclass(frozen=True)
class Plan:
    """Levels, then one chain over all columns that makes the sum."""

    levels: tuple[Level, ...]
    last: Chain

    @property
    def sites(self) -> int:
        """LUT sites for each number."""
        return sum(level.sites for level in self.levels) + len(self.last.counts)


def make_plan(heights: Sequence[int]) -> Plan:
    """A cheap plan for columns of these heights. Bits beyond the last column are dropped."""
    plan = _plan(tuple(heights), _MAX_LEVELS)
    if plan is None:
        raise ValueError(f"columns of {max(heights)} bits need more than {_MAX_LEVELS} levels")
    return plan[1]


@cache
def _plan(heights: tuple[int, ...], max_levels: int) -> tuple[int, Plan] | None:
    last = _last(heights)
    if last is not None:
        return len(last.counts), Plan((), last)
    best: tuple[int, Plan] | None = None
    for threes in (False, True) if max(heights) <= _SMALL else (False,):
        level = _level(heights, threes)
        if not max_levels or not level.sites:
            continue
        rest = _plan(level.heights, max_levels - 1)
        if rest is None:
            continue
        cost = rest[0] + level.sites + _LEVEL
        if best is None or cost < best[0]:
            best = cost, Plan((level, *rest[1].levels), rest[1].last)
    return best


def _last(heights: tuple[int, ...]) -> Chain | None:
    """One chain for all bits, if that is possible."""
    carry = heights[0] == 3
    column_bits = [heights[0] - carry, *heights[1:]]
    column = 0
    while column < len(column_bits):
        if column_bits[column] <= 2:
            column += 1
        elif column_bits[column] <= 4 and max(column_bits[column + 1 : column + 2], default=0) <= 1:
            column += 2
        else:
            return None
    return Chain(0, tuple(column_bits), carry)


def _level(heights: tuple[int, ...], threes: bool) -> Level:
    """As many chains as there are fours, each as long as possible; then perhaps counters."""
    width, left = len(heights), list(heights)
    following = [0] * (width + 2)
    chains: Counter[Chain] = Counter()
    for start in range(width):
        while left[start] >= 4:
            counts: list[int] = []
            while start + len(counts) < width and left[start + len(counts)] >= 4:
                column = start + len(counts)
                left[column] -= 4
                counts.append(4)
                if column + 1 < width:
                    upper = min(left[column + 1], 1)
                    left[column + 1] -= upper
                    counts.append(upper)
            carry = left[start] > 0
            left[start] -= carry
            chains[Chain(start, tuple(counts), carry)] += 1
            for column in range(start, start + len(counts) + 1):
                following[column] += 1
    counters = [n // 3 if threes else 0 for n in left]
    for column, n in enumerate(counters):
        following[column] += left[column] - 2 * n
        following[column + 1] += n
    return Level(tuple(chains.items()), tuple(counters), tuple(following[:width]))
