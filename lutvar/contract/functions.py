# SPDX-License-Identifier: Apache-2.0
"""Tabulated functions: integer tables and the integer arithmetic that reads them.

The gateware's ROMs and the golden model both come from here; `docs/arithmetic.md`, section 8, has
the rules and the error bounds.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from functools import cache

import numpy as np
from numpy.typing import NDArray

EXP2_FRACTION = 10  #: fraction bits of a score; the table has one entry for each fraction
EXP2_ONE = 15  #: 2**-0 is 2**EXP2_ONE

RSQRT_ONE = 18  #: 1.0 is 2**RSQRT_ONE
RSQRT_STEP = 16  #: bits of the interpolated part of the significand (23 - 7)

GELU_ONE = 16  #: a gate of 1.0 is 2**GELU_ONE
GELU_RANGE = 8  #: from here on the gate is 1
GELU_INDEX, GELU_STEP = 9, 9  #: bits of the segment and of the position within it
GELU_FRACTION = GELU_INDEX + GELU_STEP - 3  #: fraction bits of |y|

SILU_RANGE = 16  #: from here on SiLU's gate is 1; its table is otherwise like GELU's
SILU_FRACTION = GELU_FRACTION - 1


@cache
def exp2_table() -> tuple[int, ...]:
    """`round(2**15 * 2**(-f / 1024))` for f = 0 .. 1023; from 32768 down to 16395."""
    n = 1 << EXP2_FRACTION
    return tuple(round(2**EXP2_ONE * 2.0 ** (-f / n)) for f in range(n))


@cache
def rsqrt_tables() -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Value at the start of each of 256 segments, and the fall over the segment.

    Index: exponent's parity (odd: 1) times 128 plus the top 7 fraction bits.
    """

    def value(parity: int, step: int) -> int:
        return round(2**RSQRT_ONE / math.sqrt((1 + step / 128) * 2**parity))

    index = [(parity, step) for parity in range(2) for step in range(128)]
    return (
        tuple(value(p, s) for p, s in index),
        tuple(value(p, s) - value(p, s + 1) for p, s in index),
    )


def gelu_gate(y: float) -> float:
    """The factor of tanh-GELU: `gelu(y) = y * gate(y)`, and `gate(-y) = 1 - gate(y)`."""
    return 0.5 * (1 + math.tanh(math.sqrt(2 / math.pi) * (y + 0.044715 * y**3)))


@cache
def gelu_tables() -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Gate at the start of each of 512 segments of 1/64, and its rise over the segment."""
    return _gate_tables(gelu_gate, GELU_RANGE)


def silu_gate(y: float) -> float:
    """The factor of SiLU: `silu(y) = y * gate(y)`, and `gate(-y) = 1 - gate(y)`."""
    return 1 / (1 + math.exp(-y))


@cache
def silu_tables() -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Gate at the start of each of 512 segments of 1/32, and its rise over the segment."""
    return _gate_tables(silu_gate, SILU_RANGE)


def _gate_tables(
    gate: Callable[[float], float], reach: int
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    n = 1 << GELU_INDEX
    points = [round(2**GELU_ONE * gate(i * reach / n)) for i in range(n)]
    points.append(1 << GELU_ONE)
    return tuple(points[:-1]), tuple(b - a for a, b in itertools.pairwise(points))


def exp2(distance: NDArray[np.int64]) -> NDArray[np.int64]:
    """`2**(-distance / 1024)` in units of 2**-15, rounded down after the table; distance >= 0."""
    table = np.array(exp2_table(), np.int64)
    shift = np.minimum(distance >> EXP2_FRACTION, 31)
    return table[distance & (1 << EXP2_FRACTION) - 1] >> shift


def rsqrt(v: NDArray[np.float32]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """`1 / sqrt(v)` of positive normal float32 values as (Y, k): `Y * 2**(-18 - k)`.

    Y is from 2**17 to 2**18.
    """
    bits = np.ascontiguousarray(v, np.float32).view(np.uint32).astype(np.int64)
    exponent = (bits >> 23) - 127
    fraction = bits & (1 << 23) - 1
    index = (exponent & 1) << 7 | fraction >> RSQRT_STEP
    start, fall = (np.array(t, np.int64) for t in rsqrt_tables())
    step = fraction & (1 << RSQRT_STEP) - 1
    y = start[index] - ((fall[index] * step + (1 << RSQRT_STEP - 1)) >> RSQRT_STEP)
    return y, exponent >> 1


@cache
def _gates(
    tables: Callable[[], tuple[tuple[int, ...], tuple[int, ...]]],
) -> NDArray[np.int32]:
    """The gate of every position of a table, that behind its last one included (1 MB)."""
    position = np.arange(1 << GELU_INDEX + GELU_STEP)
    start, rise = (np.array(t, np.int64) for t in tables())
    index, step = position >> GELU_STEP, position & (1 << GELU_STEP) - 1
    gate = start[index] + ((rise[index] * step + (1 << GELU_STEP - 1)) >> GELU_STEP)
    return np.append(gate, 1 << GELU_ONE).astype(np.int32)


def gelu_factor(y: NDArray[np.float32]) -> NDArray[np.int32]:
    """The gate of tanh-GELU in units of 2**-16, 0 to 65536, for float32 values."""
    return _factor(y, _gates(gelu_tables), GELU_FRACTION)


def silu_factor(y: NDArray[np.float32]) -> NDArray[np.int32]:
    """The gate of SiLU in units of 2**-16, 0 to 65536, for float32 values."""
    return _factor(y, _gates(silu_tables), SILU_FRACTION)


def _factor(y: NDArray[np.float32], gates: NDArray[np.int32], fraction: int) -> NDArray[np.int32]:
    y = np.asarray(y, np.float32)
    # A power of two: exact. The cast rounds towards zero, down for what is not negative.
    scaled = np.abs(y) * np.float32(1 << fraction)
    position = np.minimum(scaled, np.float32(len(gates) - 1)).astype(np.int32)
    gate = gates.take(position, mode="clip")  # in range; the mode is the fastest
    return np.where(y < 0, (1 << GELU_ONE) - gate, gate)


def as_json() -> dict[str, object]:
    """What the configuration hash covers."""
    return {
        "exp2": list(exp2_table()),
        "rsqrt": [list(t) for t in rsqrt_tables()],
        "gelu": [list(t) for t in gelu_tables()],
        "silu": [list(t) for t in silu_tables()],
    }
