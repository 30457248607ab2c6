# SPDX-License-Identifier: Apache-2.0
"""Group norm in pieces and SiLU: sums in integers, vectors, NORM; against fractions and torch."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from lutvar.contract import functions
from lutvar.contract.decoder_host import Sums, Vectors, vectors
from lutvar.quant.golden.decoder.norm import norm, sums
from lutvar.quant.golden.pointwise import silu
from support.quant import unit_reference as unit


def raw(seed: int, *shape: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.standard_normal(shape) * np.exp2(rng.uniform(-12, 12, shape))).astype(np.float32)


def test_sums_are_those_of_the_integers() -> None:
    x = raw(0, 2, 4, 4, 32)
    x[0, 0, 0, :8] = [8191.999, 8192, 1e30, -1e30, 0.5 / 1024, 1.5 / 1024, -2.5 / 1024, 1e-40]
    found = sums(x)
    largest = 2**23 - 1
    for b in range(2):
        for c in range(32):
            n = [round(Fraction(float(v)) * 1024) for v in x[b, :, :, c].ravel()]
            n = [max(-largest, min(largest, v)) for v in n]
            assert int(found.values[b, c]) == sum(n)
            assert int(found.squares[b, c]) == sum(v * v for v in n)


def test_sums_of_the_largest_map_fit() -> None:
    """2**18 pixels, all at the limit: 64 bits unsigned hold the squares, vectors the rest."""
    x = np.full((1, 512, 512, 1), 1e9, np.float32)
    found = sums(x)
    largest = 2**23 - 1
    assert int(found.values[0, 0]) == largest << 18
    assert int(found.squares[0, 0]) == largest**2 << 18
    wide = Sums(np.repeat(found.values, 640, 1), np.repeat(found.squares, 640, 1))
    made = vectors(wide, 1 << 18, np.ones(640, np.float32), np.zeros(640, np.float32), 1e-6)
    assert np.isfinite(made.scale).all() and (made.scale > 900).all()  # variance 0: 1 / sqrt(eps)


@pytest.mark.parametrize("channels", [32, 160, 320, 640])
def test_vectors_are_the_norm(channels: int) -> None:
    rng = np.random.default_rng(channels)
    offset = rng.normal(0, 3, channels)
    x = (rng.standard_normal((2, 8, 8, channels)) * 0.7 + offset).astype(np.float32)
    weight, bias = (rng.standard_normal(channels).astype(np.float32) for _ in range(2))
    made = vectors(sums(x), 64, weight, bias, 1e-6)
    found = x.astype(np.float64) * made.scale[:, None, None] + made.shift[:, None, None]
    nchw = torch.from_numpy(x).double().permute(0, 3, 1, 2)
    expected = F.group_norm(
        nchw, 32, torch.from_numpy(weight).double(), torch.from_numpy(bias).double(), 1e-6
    )
    error = np.abs(found - expected.permute(0, 2, 3, 1).numpy()).max()
    assert error < np.abs(found).max() * 2.0**-10  # scale and shift are FP16


def test_vectors_literally() -> None:
    """One float64 operation after the other, as the contract lists them."""
    x = raw(3, 1, 4, 4, 64)
    weight, bias = raw(4, 64), raw(5, 64)
    found = sums(x)
    made = vectors(found, 16, weight, bias, 1e-6)
    for group in range(32):
        pair = slice(2 * group, 2 * group + 2)
        total = float(sum(map(int, found.values[0, pair])))
        power = float(sum(map(int, found.squares[0, pair]))) / 32.0 * 2.0**-20
        mean = total / 32.0 * 2.0**-10
        variance = max(power - mean * mean, 0.0) + 1e-6
        for c in range(2 * group, 2 * group + 2):
            scale = np.float16(np.clip(float(weight[c]) / variance**0.5, -65504, 65504))
            shift = np.float16(np.clip(float(bias[c]) - mean * float(scale), -65504, 65504))
            assert made.scale[0, c] == scale and made.shift[0, c] == shift


@pytest.mark.parametrize("deviation", [1e-5, 3e-4, 1e-3, 1e-2])
def test_small_variances_count_less_than_epsilon(deviation: float) -> None:
    """Section 14: integers of 2**-10 add up to 8 % of epsilon, so 4 % of the scale."""
    x = np.random.default_rng(6).normal(0, deviation, (1, 64, 64, 32)).astype(np.float32)
    made = vectors(sums(x), 4096, np.ones(32, np.float32), np.zeros(32, np.float32), 1e-6)
    exact = 1 / np.sqrt(x.astype(np.float64).var((1, 2)) + 1e-6)
    assert (np.abs(made.scale / exact - 1) < 0.04).all()


def test_norm_rounds_each_operation() -> None:
    x, scale, shift = raw(7, 1, 2, 2, 32), raw(8, 32), raw(9, 32)
    made = Vectors(scale.astype(np.float16)[None], shift.astype(np.float16)[None])
    for gate in (False, True):
        found = norm(x, made, gate)
        for index in np.ndindex(x.shape):
            c = index[-1]
            product = unit.f32(Fraction(float(x[index])) * Fraction(float(made.scale[0, c])))
            y = unit.f32(product + Fraction(float(made.shift[0, c])))
            expected = unit.silu(y) if gate else unit.fp16(y)
            assert int(found[index].view(np.uint16)) & 0x7FFF == expected & 0x7FFF
    np.testing.assert_array_equal(norm(x, None, False), x.astype(np.float16))


def test_silu_equals_fractions() -> None:
    edges = [0, 2.0**-80, 2.0**-24, 2.0**-15, 1 / 32, 1, 15.999, 16, 16.0001, 100, 70000, 2.0**80]
    near = [np.nextafter(np.float32(v), np.float32(s)) for v in (1 / 32, 16) for s in (0, 100)]
    y = np.array([*edges, *near, *np.random.default_rng(4).uniform(-18, 18, 300)], np.float32)
    y = np.concatenate([y, -y])
    found = silu(y)
    for value, z in zip(y, found, strict=True):
        assert int(z.view(np.uint16)) == unit.silu(Fraction(float(value))), value
    assert found[np.flatnonzero(y == -16)[0]].view(np.uint16) == 0  # exact zero: +0


def test_silu_error_against_float64() -> None:
    """Section 8: of y * gate, before the rounding to FP16."""
    y = np.linspace(-24, 24, 1 << 19).astype(np.float32)
    product = y.astype(np.float64) * functions.silu_factor(y) * 2.0**-16
    expected = F.silu(torch.from_numpy(y).double()).numpy()
    error = np.abs(product - expected).max()
    assert 1e-4 < error < 1.1e-4
