# SPDX-License-Identifier: Apache-2.0
"""Sums of many numbers for 16 rows at once, and the transposition that separates the rows.

The rows of a group compute the same thing on different bits. So a bit of weight ``2**c`` is a
vector over the rows, and all bits of one weight are one column: a wide word, for which a level of
counters is a few word-wide operations in simulation and one LUT a bit in hardware.
"""

from __future__ import annotations

from collections.abc import Sequence

from amaranth.hdl import Cat, Const, Module, Signal, Value

from lutvar.contract.accelerator import ROW_GROUP


def full_add(a: Value, b: Value, c: Value) -> tuple[Value, Value]:
    """Sum and carry of three bits (of each position)."""
    return a ^ b ^ c, a & b | c & (a ^ b)


def _count5(b: Sequence[Value]) -> list[Value]:
    low, carry1 = full_add(b[0], b[1], b[2])
    low, carry2 = full_add(low, b[3], b[4])
    return [low, carry1 ^ carry2, carry1 & carry2]


def _count6(b: Sequence[Value]) -> list[Value]:
    low1, carry1 = full_add(b[0], b[1], b[2])
    low2, carry2 = full_add(b[3], b[4], b[5])
    middle, high = full_add(carry1, carry2, low1 & low2)
    return [low1 ^ low2, middle, high]


def _count3(b: Sequence[Value]) -> list[Value]:
    return list(full_add(b[0], b[1], b[2]))


#: Counters by the number of their inputs. Each removes one bit for each LUT site: six inputs are
#: three LUTs, five are three functions of five inputs in two sites, three are one site.
_COUNTERS = {6: _count6, 5: _count5, 3: _count3}


class Column:
    """All bits of one weight. ``parts``: vectors of 16 bits, or of several times 16."""

    def __init__(self, parts: Sequence[Value] = ()) -> None:
        self.parts = list(parts)

    @property
    def height(self) -> int:
        return sum(len(part) for part in self.parts) // ROW_GROUP

    def take(self, count: int) -> Value:
        """Remove ``count`` vectors of 16 bits."""
        bits = Cat(*self.parts)
        width = count * ROW_GROUP
        self.parts = [bits[width:]] if len(bits) > width else []
        return bits[:width]


def count_level(columns: Sequence[Column]) -> list[Column]:
    """One level of counters. Columns beyond the last one are dropped."""
    result = [Column() for _ in columns]
    for weight, column in enumerate(columns):
        for inputs, counter in _COUNTERS.items():
            n = column.height // inputs
            if not n:
                continue
            outputs = counter([column.take(n) for _ in range(inputs)])
            for place, output in enumerate(outputs):
                if weight + place < len(columns):
                    result[weight + place].parts.append(output)
        result[weight].parts += column.parts
    return result


def levels_of(heights: Sequence[int]) -> int:
    """Levels of :func:`count_level` until no column is higher than two."""
    columns = [Column([Const(0, ROW_GROUP)] * height) for height in heights]
    levels = 0
    while max(column.height for column in columns) > 2:
        columns = count_level(columns)
        levels += 1
    return levels


def reduce_columns(m: Module, columns: Sequence[Column], name: str) -> list[Column]:
    """Counters with a register after each level, until no column is higher than two.

    Latency: ``levels_of`` the heights.
    """
    level = 0
    columns = list(columns)
    while max(column.height for column in columns) > 2:
        staged = []
        for weight, column in enumerate(count_level(columns)):
            if not column.parts:
                staged.append(Column())
                continue
            held = Signal(
                column.height * ROW_GROUP, name=f"{name}{level}_{weight}", reset_less=True
            )
            m.d.sync += held.eq(Cat(*column.parts))
            staged.append(Column([held]))
        columns = staged
        level += 1
    return columns


def transpose(m: Module, value: Value, rows: int, name: str) -> Value:
    """Bit ``r + rows * k`` moves to ``r * n + k``, with ``n = len(value) / rows``. Wires only.

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
