# SPDX-License-Identifier: Apache-2.0
"""LayerNorm of the golden model against fractions and against float64."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from numpy.typing import NDArray

from lutvar.contract import functions
from lutvar.quant.golden.norm import layer_norm, row_sum, statistics, tree16
from lutvar.quant.golden.pointwise import fp16, rsqrt
from support.quant import unit_reference as unit

EPS = 1e-6


def fractions(x: NDArray[np.float32]) -> list[Fraction]:
    return [Fraction(float(v)) for v in x]


def patterns(x: NDArray[np.float16]) -> list[int]:
    return [int(p) for p in x.view(np.uint16)]


def same_halves(found: NDArray[np.float16], expected: list[int]) -> None:
    """Equal patterns; the sign of a zero carries no information."""
    want = np.array(expected, np.uint16).view(np.float16)
    np.testing.assert_array_equal(found, want)


def rows(width: int, seed: int) -> NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((9, width)).astype(np.float32)
    x[1] = x[1] * 3 + 100  # large mean
    x[2] *= np.exp2(rng.uniform(-20, 10, width)).astype(np.float32)
    x[3] = 0
    x[4] = 7.25  # no variance
    x[5] = np.where(np.arange(width) % 2, 65504, -65504)
    x[5, 0], x[5, 1] = 1e30, -1e30  # saturates
    x[6] *= np.float32(2.0**-22)  # FP16 subnormals
    x[7, 1:] = 0  # one value
    x[8] = x[8] * np.float32(1e-3) + 1000  # the variance rounds to nothing
    return x


@pytest.mark.slow
@pytest.mark.parametrize("width", [128, 384])
def test_layer_norm_equals_fractions(width: int) -> None:
    rng = np.random.default_rng(width)
    x = rows(width, width)
    scale = (1 + rng.standard_normal(width)).astype(np.float16)
    shift = rng.standard_normal(width).astype(np.float16)
    scale[:3] = [0, -0.0, 65504]
    shift[3:5] = [-0.0, 6e-8]
    found = layer_norm(x, scale, shift, EPS)
    eps = Fraction(float(np.float32(EPS)))
    for row, z in zip(x, found, strict=True):
        same_halves(z, unit.layer_norm(fractions(row), patterns(scale), patterns(shift), eps))


def test_sums_have_the_stated_shape() -> None:
    rng = np.random.default_rng(2)
    z = (rng.standard_normal((5, 640)) * np.exp2(rng.uniform(-12, 12, (5, 640)))).astype(np.float32)
    for row, total in zip(z, row_sum(z), strict=True):
        assert unit.row_sum(fractions(row)) == Fraction(float(total))
        assert unit.tree16(fractions(row[:16])) == Fraction(float(tree16(row[:16])))
    # The order matters: another one gives other sums for this data.
    assert (row_sum(z) != row_sum(z[:, ::-1].copy())).any()
    with pytest.raises(ValueError, match="multiple of 16"):
        row_sum(z[:, :-1])


def test_rsqrt_over_its_range() -> None:
    rng = np.random.default_rng(3)
    edges = [
        2.0**x * (1 + f / 2**23) for x in (-40, -1, 0, 1, 43) for f in (0, 1, 65535, 2**23 - 1)
    ]
    v = np.array([*edges, *np.exp2(rng.uniform(-40, 44, 300))], np.float32)
    for value, found in zip(v, rsqrt(v), strict=True):
        assert unit.rsqrt(Fraction(float(value))) == Fraction(float(found))
    dense = np.arange(1 << 24, (3 << 24) + (1 << 24), 37, dtype=np.int64).astype(np.float32)
    error = np.abs(rsqrt(dense) * np.sqrt(dense.astype(np.float64)) - 1).max()
    assert 2.0**-17.5 < error < 2.0**-16.7
    y, _ = functions.rsqrt(dense)
    assert y.min() >= 1 << 17 and y.max() == 1 << 18


@pytest.mark.parametrize("ratio", [0.0, 1.0, 10.0])
def test_error_bound_against_float64(ratio: float) -> None:
    """Section 9: relative error of r, with s = 1 + mean**2 / variance."""
    rng = np.random.default_rng(4)
    x = fp16((rng.standard_normal((200, 1920)) + ratio).astype(np.float32))
    exact = x.astype(np.float64)
    mean, r = statistics(x, EPS)
    eps = float(np.float32(EPS))
    expected = 1 / np.sqrt(exact.var(-1) + eps)
    s = 1 + exact.mean(-1) ** 2 / exact.var(-1)
    assert (np.abs(r / expected - 1) < s * 2.0**-19 + 2.0**-16.7).all()
    assert (np.abs(mean - exact.mean(-1)) < np.abs(exact).mean(-1) * 2.0**-21).all()


def test_fp16_saturates_and_keeps_only_rounded_signs() -> None:
    values = np.array(
        [1e30, -1e30, 65519.9, 65520, -0.0, -1e-9, 2.0**-25, 3 * 2.0**-25], np.float32
    )
    expected = [0x7BFF, 0xFBFF, 0x7BFF, 0x7BFF, 0, 0x8000, 0, 2]
    assert patterns(fp16(values)) == expected
