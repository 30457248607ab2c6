# SPDX-License-Identifier: Apache-2.0
"""Every table of the quantizer, generated from format objects, and how a table becomes LUTs."""

from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache

from amaranth.hdl import C, Cat, Mux, Value

from lutvar.contract.formats import NumberFormat
from lutvar.contract.formats.ties import TieRule, nearest_rank
from lutvar.contract.two_terms import PLACES

#: The reciprocal enters the multiplier's 27-bit signed port.
MAX_RECIPROCAL_BITS = 26
#: Significands of normal FP16 numbers.
SIGNIFICANDS = range(1024, 2048)


@lru_cache
def reciprocals(top: int) -> tuple[int, ...]:
    """`ceil(2 * top * 2**22 / s)` for each significand `s` = 1024..2047.

    Args:
        top: integer that the group's absolute maximum maps to (M).
    """
    return tuple(-(-2 * top * (1 << PLACES) // s) for s in SIGNIFICANDS)


@lru_cache
def rescaled(numerator: int, denominator: int) -> tuple[int, ...]:
    """`RNE_fp16(x * numerator / denominator)` for each `x` in 1..2, as a pattern increment.

    The entry for fraction `f` is `p` with: pattern `e << 10 | f` becomes `(e << 10) + p`,
    for each normal exponent `e` (the ratio is at least 1, so the result is normal too).

    Raises:
        ValueError: the ratio is below 1 or at least 2.
    """
    ratio = Fraction(numerator, denominator)
    if not 1 <= ratio < 2:
        raise ValueError(f"ratio of half scales is {ratio}; it must be at least 1 and below 2")
    entries = []
    for s in SIGNIFICANDS:
        exact = s * ratio  # below 4096
        # Python rounds a Fraction to the nearest integer, ties to even. A hidden bit that is not
        # taken off adds 1 to the exponent field; a carry out of the fraction does the same.
        entries.append(round(exact) - 1024 if exact < 2048 else round(exact / 2))
    return tuple(entries)


@lru_cache
def decide(fmt: NumberFormat, negative: bool, ties: TieRule) -> tuple[int, ...]:
    """Code of each `(f, tie)`, at index `f << 1 | tie`, for f = 0..2M.

    `f` is `floor(2 * y)` and `tie` says that `2 * y` is an integer, for `y` the magnitude
    in grid units. Decision points lie at half of an integer, so this is all that matters.
    """
    levels = fmt.half(negative).levels
    codes = []
    for f in range(2 * fmt.scale_top(negative) + 1):
        for tie in (False, True):
            # Any value between two integers does for an inexact 2 * y.
            y = Fraction(f, 2) + (0 if tie else Fraction(1, 4))
            level = levels[nearest_rank(levels, y, ties, negative)]
            codes.append(fmt.encode_int(level, negative))
    return tuple(codes)


def lookup(index: Value, table: Sequence[int | None], width: int) -> Value:
    """`table[index]` as a tree of multiplexers over LUT6-sized leaves.

    Each output bit is split over the index bits above the sixth until a leaf fits one LUT6; equal
    halves are merged, and `None` (never reached) takes whatever makes halves equal.

    Args:
        index: unsigned; entries beyond the table are never reached.
        table: at most `2**len(index)` entries.
        width: bits of an entry.
    """
    size = 1 << len(index)
    if len(table) > size:
        raise ValueError(f"table has {len(table)} entries; {len(index)} index bits reach {size}")
    entries = [*table, *[None] * (size - len(table))]
    bits = []
    for bit in range(width):
        column = [None if entry is None else entry >> bit & 1 for entry in entries]
        bits.append(_split(index, column, {}))
    return Cat(*bits)


Column = list[int | None]


def _split(index: Value, column: Column, cache: dict[tuple[int | None, ...], Value]) -> Value:
    """One output bit of `lookup`; `cache` shares equal subtrees."""
    key = tuple(column)
    if key in cache:
        return cache[key]
    values = {entry for entry in column if entry is not None}
    if len(values) < 2:
        result: Value = C(values.pop() if values else 0, 1)
    elif len(index) <= 6:
        pattern = sum(1 << i for i, entry in enumerate(column) if entry)
        result = C(pattern, len(column)).bit_select(index, 1)
    else:
        middle = len(column) // 2
        low, high = column[:middle], column[middle:]
        merged = _merge(low, high)
        if merged is not None:
            result = _split(index[:-1], merged, cache)
        else:
            result = Mux(index[-1], _split(index[:-1], high, cache), _split(index[:-1], low, cache))
    cache[key] = result
    return result


def _merge(low: Column, high: Column) -> Column | None:
    """One column that serves both halves, or None when they differ somewhere."""
    merged: Column = []
    for a, b in zip(low, high, strict=True):
        if a is not None and b is not None and a != b:
            return None
        merged.append(b if a is None else a)
    return merged
