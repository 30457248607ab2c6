# SPDX-License-Identifier: Apache-2.0
"""Sums of columns that POST keeps while it writes a raw map (`docs/arithmetic.md`, section 14).

Of each float32 result x, `n = RNE(x * 2**10)`, limited, is added to S1 and `n**2` to S2 of its
column.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

FRACTION = 10  #: fraction bits of the integers
BITS = 24  #: of an integer, sign included
LIMIT = (1 << BITS - 1) - 1  #: its largest magnitude
VALUE_BITS = 42  #: of S1, which has a sign
SQUARE_BITS = 64  #: of S2, which has none
COLUMN_BYTES = 16  #: of a column as SUMS writes it: S1 as 64 bits, then S2
MAX_BLOCKS = 16  #: blocks of 128 columns that have sums


class SumMode(IntEnum):
    """What STORE and ADD do with the sums of their columns."""

    NONE = 0  #: nothing
    BEGIN = 1  #: the sums start from 0, then as ON
    ON = 2  #: results are added to S1, their squares to S2


def integers(x: NDArray[np.float32]) -> NDArray[np.int64]:
    """The integers n of finite results, of any shape."""
    # The product is exact: a power of two, and what underflows rounds to 0 anyway.
    scaled = np.rint(np.asarray(x, np.float32).astype(np.float64) * (1 << FRACTION))
    return np.clip(scaled, -LIMIT, LIMIT).astype(np.int64)


def wrapped(values: NDArray[np.int64]) -> NDArray[np.int64]:
    """S1 as the device holds it: modulo 2**42, with its sign. 2**18 results do not reach that."""
    shift = np.int64(64 - VALUE_BITS)
    return (values << shift) >> shift


def pack(values: NDArray[np.int64], squares: NDArray[np.uint64]) -> NDArray[np.uint8]:
    """S1 and S2 of columns as SUMS writes them, `COLUMN_BYTES` each."""
    words = np.stack([values.astype("<i8").view("<u8"), squares.astype("<u8")], axis=-1)
    return np.ascontiguousarray(words).reshape(-1).view(np.uint8)


def unpack(raw: NDArray[np.uint8]) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
    """S1 and S2 of columns from what SUMS wrote."""
    words = np.ascontiguousarray(raw).view("<u8").reshape(-1, 2)
    return words[:, 0].astype(np.uint64).view(np.int64), words[:, 1].astype(np.uint64)
