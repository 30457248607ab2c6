# SPDX-License-Identifier: Apache-2.0
"""Sums of many numbers for 16 rows at once, and the transposition that separates the rows.

The rows of a group compute the same thing on different bits. So a bit of weight ``2**c`` is a
vector over the rows, and all bits of one weight are one column: a wide word, for which a level of
counters is a few word-wide operations in simulation and one LUT a bit in hardware.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

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


#: All bits of one weight: words of several times 16 bits.
Column = list[Value]


def height_of(column: Column) -> int:
    """Bits in a column."""
    return sum(len(word) for word in column) // ROW_GROUP


def _cut(column: Column, counts: Sequence[int]) -> list[Value]:
    """The first ``counts[0]`` bits of a column, the next ``counts[1]`` and so on.

    Neighbours stay together: the fewer slices, the faster everything that reads the design.
    """
    result: list[Value] = []
    words = iter(column)
    word, at = next(words, Const(0, 0)), 0
    for count in counts:
        parts: list[Value] = []
        missing = count * ROW_GROUP
        while missing:
            if at == len(word):
                word, at = next(words), 0
            step = min(missing, len(word) - at)
            parts.append(word[at : at + step])
            at, missing = at + step, missing - step
        result.append(parts[0] if len(parts) == 1 else Cat(*parts))
    return result


def count_level(columns: Sequence[Column]) -> list[Column]:
    """One level of counters. Columns beyond the last one are dropped."""
    result: list[Column] = [[] for _ in columns]
    for weight, column in enumerate(columns):
        left = height_of(column)
        counts: list[int] = []
        used: list[tuple[Callable[..., list[Value]], int]] = []
        for inputs, counter in _COUNTERS.items():
            n, left = divmod(left, inputs)
            if n:
                counts += [n] * inputs
                used.append((counter, inputs))
        *operands, rest = _cut(column, [*counts, left])
        for counter, inputs in used:
            mine, operands = operands[:inputs], operands[inputs:]
            for place, output in enumerate(counter(mine)):
                if weight + place < len(columns):
                    result[weight + place].append(output)
        if left:
            result[weight].append(rest)
    return result


def levels_of(heights: Sequence[int]) -> int:
    """Levels of :func:`count_level` until no column is higher than two."""
    levels = 0
    while max(heights) > 2:
        following = [0] * (len(heights) + 3)
        for weight, height in enumerate(heights):
            for inputs in _COUNTERS:
                n, height = divmod(height, inputs)
                for place in range(inputs.bit_length()):
                    following[weight + place] += n
            following[weight] += height
        heights = following[: len(heights)]
        levels += 1
    return levels


def reduce_columns(m: Module, columns: Sequence[Column], name: str) -> list[Column]:
    """Counters with a register after each level, until no column is higher than two.

    Latency: ``levels_of`` the heights.
    """
    level = 0
    columns = list(columns)
    while max(map(height_of, columns)) > 2:
        for weight, column in enumerate(count_level(columns)):
            word = Cat(*column)
            held = Signal(len(word), name=f"{name}{level}_{weight}", reset_less=True)
            m.d.sync += held.eq(word)
            columns[weight] = [held] if column else []
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
