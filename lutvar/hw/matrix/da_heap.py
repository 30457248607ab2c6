# SPDX-License-Identifier: Apache-2.0
"""Sums of many numbers for 16 rows at once, and the transposition that separates the rows.

The rows of a group compute the same thing on different bits. So a bit of weight `2**c` is a
vector over the rows, and all bits of one weight are one column: a wide word, for which equal
chains and counters are a few word-wide operations in simulation.
"""

from __future__ import annotations

from collections.abc import Sequence

from amaranth.hdl import Cat, Const, Module, Signal, Value

from lutvar.contract.accelerator import ROW_GROUP

from .da_carry import add_planes, full_add
from .da_plan import Chain, Level, make_plan

#: All bits of one weight: words of several times 16 bits.
Column = list[Value]


def height_of(column: Column) -> int:
    """Bits in a column."""
    return sum(len(word) for word in column) // ROW_GROUP


class _Supply:
    """Gives away the bits of a column from its start; neighbours stay together.

    The fewer slices, the faster everything that reads the design.
    """

    def __init__(self, column: Column) -> None:
        self.words = list(column)

    def take(self, count: int) -> Value:
        """The next `count` bits, of all rows."""
        parts: list[Value] = []
        missing = count * ROW_GROUP
        while missing:
            word = self.words.pop(0)
            if len(word) > missing:
                self.words.insert(0, word[missing:])
                word = word[:missing]
            parts.append(word)
            missing -= len(word)
        return parts[0] if len(parts) == 1 else Cat(*parts)


def _chain(
    m: Module, name: str, supplies: Sequence[_Supply], chain: Chain, count: int
) -> list[Value]:
    """`count` equal chains: their sums, a word for each column and one for the one above."""
    zero = Const(0, count * ROW_GROUP)
    a: list[Value] = []
    b: list[Value] = []
    majority: Value | None = None
    for place, height in enumerate(chain.counts):
        bits = [supplies[chain.start + place].take(count) for _ in range(height)]
        bits += [zero] * (4 - height)
        if majority is not None:
            a.append(bits[0])
            b.append(majority)
            majority = None
        elif height > 2:
            parity, majority = full_add(*bits[:3])
            a.append(bits[3])
            b.append(parity)
        else:
            a.append(bits[0])
            b.append(bits[1])
    carry = supplies[chain.start].take(count) if chain.carry else None
    return add_planes(m, name, a, b, carry)


def _one_level(m: Module, name: str, columns: Sequence[Column], level: Level) -> list[Column]:
    supplies = [_Supply(column) for column in columns]
    result: list[Column] = [[] for _ in range(len(columns) + 2)]
    for number, (chain, count) in enumerate(level.chains):
        sums = _chain(m, f"{name}_chain{number}", supplies, chain, count)
        for place, word in enumerate(sums):
            result[chain.start + place].append(word)
    for weight, count in enumerate(level.threes):
        if count:
            total, carry = full_add(*(supplies[weight].take(count) for _ in range(3)))
            result[weight].append(total)
            result[weight + 1].append(carry)
    for supply, column in zip(supplies, result, strict=False):
        column += supply.words
    return result[: len(columns)]


def add_columns(m: Module, columns: Sequence[Column], name: str) -> list[Value]:
    """The sum of everything, modulo two to the number of columns: a word for each bit.

    Registers after each level of chains and counters; none behind the last chain. Latency:
    `len(make_plan(heights).levels)`.
    """
    columns = list(columns)
    plan = make_plan([height_of(column) for column in columns])
    for number, level in enumerate(plan.levels):
        for weight, column in enumerate(_one_level(m, f"{name}{number}", columns, level)):
            word = Cat(*column)
            stage = Signal(len(word), name=f"{name}{number}_{weight}", reset_less=True)
            m.d.sync += stage.eq(word)
            columns[weight] = [stage] if column else []
    supplies = [_Supply(column) for column in columns]
    return _chain(m, f"{name}_last", supplies, plan.last, 1)[: len(columns)]


def transpose(m: Module, value: Value, rows: int, name: str) -> Value:
    """Bit `r + rows * k` moves to `r * n + k`, with `n = len(value) / rows`. Wires only.

    Both sizes are powers of two. A transposition rotates the bits of every index; it is done by
    exchanging two of them at a time, each a few masked shifts of the whole word: single bits
    would simulate many times slower.
    """
    size = len(value)
    bits, low = size.bit_length() - 1, rows.bit_length() - 1
    if 1 << bits != size or 1 << low != rows:
        raise ValueError(f"{rows} rows of {size} bits in all: both must be powers of two")
    index = [(bit + low) % bits for bit in range(bits)]  # which old index bit goes where
    value = _named(m, value, f"{name}_in")
    current = list(range(bits))
    for to in range(bits):
        at = current.index(index[to])
        if at != to:
            value = _named(m, _exchange(value, to, at, size), f"{name}_{to}")
            current[to], current[at] = current[at], current[to]
    return value


def _named(m: Module, value: Value, name: str) -> Signal:
    signal = Signal(len(value), name=name)
    m.d.comb += signal.eq(value)
    return signal


def _exchange(value: Value, i: int, j: int, size: int) -> Value:
    """Exchange index bits i < j: elements with only bit i set change places with those with j."""
    shift = (1 << j) - (1 << i)
    only_i = sum(1 << x for x in range(size) if x >> i & 1 and not x >> j & 1)
    only_j = only_i << shift
    stay = ~(only_i | only_j) & ((1 << size) - 1)
    up = Cat(Const(0, shift), value & only_i)[:size]
    down = (value & only_j)[shift:]
    return (value & stay) | up | down
