# SPDX-License-Identifier: Apache-2.0
"""Sums of columns: rounding to integers, what SUMS writes."""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from lutvar.contract.column_sums import (
    LIMIT,
    SQUARE_BITS,
    VALUE_BITS,
    integers,
    pack,
    unpack,
    wrapped,
)
from lutvar.contract.decoder import MAX_PIXELS


def _exactly(x: float) -> int:
    """By definition, in exact fractions; `round` takes ties to even."""
    return min(max(round(Fraction(x) * 1024), -LIMIT), LIMIT)


def test_integers_are_rounded_to_even_and_limited() -> None:
    rng = np.random.default_rng(1)
    # Halves, their neighbours, and the limit; subnormals and zeros of both signs.
    n = np.array([0, 1, 2, 3, 1000, LIMIT - 2, LIMIT - 1, LIMIT, LIMIT + 1], np.float64)
    at = np.concatenate([n, n + 0.5]).astype(np.float32) / np.float32(1024)
    edges = [0.0, 1e-45, 1e-38, 1e30, 8191.999, 8192.0, 65504.0]
    x = np.concatenate(
        [at, np.nextafter(at, np.float32(9e9)), np.nextafter(at, np.float32(-1)),
         np.array(edges, np.float32), rng.normal(0, 50, 2000).astype(np.float32)]
    )  # fmt: skip
    x = np.concatenate([x, -x])
    assert integers(x).tolist() == [_exactly(float(v)) for v in x]


def test_sums_of_the_largest_map_fit() -> None:
    assert MAX_PIXELS * LIMIT < 1 << VALUE_BITS - 1
    assert MAX_PIXELS * LIMIT**2 < 1 << SQUARE_BITS


def test_beyond_it_the_sum_wraps() -> None:
    half = 1 << VALUE_BITS - 1
    values = np.array([half - 1, half, -half, -half - 1, 2 * half + 5])
    assert wrapped(values).tolist() == [half - 1, -half, -half, half - 1, 5]


def test_columns_in_memory() -> None:
    values, squares = np.array([-2, 1 << 40]), np.array([3, (1 << 64) - 1], np.uint64)
    raw = pack(values, squares)
    assert raw.tobytes() == b"".join(
        int(n).to_bytes(8, "little", signed=n < 0)
        for pair in zip(values.tolist(), squares.tolist(), strict=True) for n in pair
    )  # fmt: skip
    for found, want in zip(unpack(raw), (values, squares), strict=True):
        assert found.tolist() == want.tolist()
