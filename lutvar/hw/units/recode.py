# SPDX-License-Identifier: Apache-2.0
"""Search for operand codes that make multiplication tables fit single LUTs.

A bit of a product seldom depends on everything about an operand: bits 0 and 1 of a product need
both operands modulo 4 only. Values that give equal table columns form a *class*, and an operand
that carries class numbers next to (or instead of) its index lets such a table read fewer wires.
Recoding is done once for each row and column of the array, so the extra operand bits are cheap; the
tables are in every lane.
"""

import random
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from itertools import combinations

LUT_INPUTS = 6  #: inputs of a LUT with one output
DUAL_INPUTS = 5  #: inputs that the two outputs of a LUT may share


def bits_for(count: int) -> int:
    """Bits that tell `count` things apart."""
    return max(0, (count - 1).bit_length())


def classes(values: Sequence[int], column: Callable[[int], Hashable]) -> tuple[int, ...]:
    """Class number of each value: values with equal columns share one, in order."""
    seen: dict[Hashable, int] = {}
    return tuple(seen.setdefault(column(value), len(seen)) for value in values)


@dataclass(frozen=True)
class Demand:
    """What one table needs to know about an operand.

    Attributes:
        partition: class number of each operand value.
        width: operand bits that the table can read.
    """

    partition: tuple[int, ...]
    width: int

    def __post_init__(self) -> None:
        count = len(set(self.partition))
        if self.width < bits_for(count):
            raise ValueError(
                f"{count} classes in {self.width} bits; at least {bits_for(count)} bits are needed"
            )


@dataclass(frozen=True)
class OperandCode:
    """Bits of a recoded operand, and which of them each table reads.

    Attributes:
        codes: recoded operand of each value.
        width: bits of a recoded operand.
        picks: for each demand, the bit positions that its table reads, ascending.
    """

    codes: tuple[int, ...]
    width: int
    picks: tuple[tuple[int, ...], ...]

    def view(self, demand: int, value: int) -> int:
        """What a table sees of the value at index `value`: its picked bits, packed."""
        return sum((self.codes[value] >> bit & 1) << i for i, bit in enumerate(self.picks[demand]))


_Signal = tuple[int, ...]  # one bit for each operand value


def _cells(
    partition: Sequence[int], signals: Sequence[_Signal]
) -> tuple[dict[tuple[int, ...], list[int]], int]:
    """Classes that each combination of the signals leaves open, and the bits needed on top."""
    cells: dict[tuple[int, ...], list[int]] = {}
    for value, cls in enumerate(partition):
        members = cells.setdefault(tuple(s[value] for s in signals), [])
        if cls not in members:
            members.append(cls)
    return cells, bits_for(max(len(members) for members in cells.values()))


def _extend(pool: list[_Signal], demand: Demand, rng: random.Random | None) -> tuple[int, ...]:
    """Serve a demand from the pool with few new signals; returns the picked positions."""
    best: tuple[int, int, tuple[int, ...]] | None = None
    for size in range(min(demand.width, len(pool)) + 1):
        for subset in combinations(range(len(pool)), size):
            _, missing = _cells(demand.partition, [pool[i] for i in subset])
            if size + missing <= demand.width and (best is None or (missing, size) < best[:2]):
                best = (missing, size, subset)
        if best and best[0] == 0:
            break
    assert best is not None  # size 0 always satisfies Demand's own rule
    missing, _, subset = best
    cells, _ = _cells(demand.partition, [pool[i] for i in subset])
    numbers: dict[tuple[int, ...], dict[int, int]] = {}
    for cell, members in cells.items():
        # Low numbers first: the top bit then singles out few classes, and a table that is too large
        # for one LUT splits into a full LUT and a small rest.
        if rng is not None:
            rng.shuffle(members)
        numbers[cell] = {cls: number for number, cls in enumerate(members)}
    first = len(pool)
    for bit in range(missing):
        pool.append(
            tuple(
                numbers[tuple(pool[i][value] for i in subset)][cls] >> bit & 1
                for value, cls in enumerate(demand.partition)
            )
        )
    return tuple(sorted((*subset, *range(first, first + missing))))


def share_bits(demands: Sequence[Demand]) -> OperandCode:
    """Find a short operand code that serves several tables at once.

    Demands are served in turn, those with most classes first; each reuses signals of the earlier
    ones. The first try numbers classes in order, the others at random; the shortest code wins, and
    among equals the one whose tables read fewest bits. The result depends on the demands only.

    Raises:
        ValueError: demands of different length.
    """
    sizes = {len(demand.partition) for demand in demands}
    if len(sizes) != 1:
        raise ValueError(f"demands cover {sorted(sizes)} operand values; all need the same number")
    (size,) = sizes
    tries = max(2, 400 // size)  # large operands take longer and gain less
    rng = random.Random(1)
    order = sorted(
        range(len(demands)),
        key=lambda i: (-len(set(demands[i].partition)), demands[i].width, i),
    )
    floor = bits_for(len(set(zip(*(demand.partition for demand in demands), strict=True))))
    best: tuple[tuple[int, int], list[_Signal], list[tuple[int, ...]]] | None = None
    for attempt in range(tries):
        pool: list[_Signal] = []
        picks: list[tuple[int, ...]] = [()] * len(demands)
        for index in order:
            picks[index] = _extend(pool, demands[index], rng if attempt else None)
        score = (len(pool), sum(len(pick) for pick in picks))
        if best is None or score < best[0]:
            best = (score, pool, picks)
        if best[0][0] == floor:
            break
    assert best is not None
    _, pool, picks = best
    codes = tuple(sum(signal[value] << i for i, signal in enumerate(pool)) for value in range(size))
    return OperandCode(codes, len(pool), tuple(picks))
