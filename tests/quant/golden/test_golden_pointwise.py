# SPDX-License-Identifier: Apache-2.0
"""Store, add, GELU and records of the golden model against fractions and against float64."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from lutvar.contract import functions
from lutvar.contract.formats import get_format
from lutvar.quant.formats.codec import codec
from lutvar.quant.golden.pointwise import add, float32, fp16, gelu, records, store
from support.quant import unit_reference as unit

CACHE_FORMATS = ("E2M1", "E2M3")


def floats(seed: int, *shape: int) -> NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    return (rng.standard_normal(shape) * np.exp2(rng.uniform(-12, 12, shape))).astype(np.float32)


def test_fp16_of_float32_at_every_tie_and_beside_it() -> None:
    """All FP16 numbers, the middles between them, and the float32 numbers next to both."""
    halves = np.arange(0x7C00, dtype=np.uint16).view(np.float16)
    exact = np.append(halves.astype(np.float32), np.float32(65536))
    middles = (exact[:-1] + exact[1:]) / 2
    points = np.concatenate([exact, middles])
    near = [np.nextafter(points, np.float32(s), dtype=np.float32) for s in (-np.inf, np.inf)]
    y = np.concatenate([points, *near, np.array([1e30], np.float32)])
    y = np.concatenate([y, -y, np.array([-0.0, -1e-30], np.float32)])
    found = fp16(y)
    expected = np.clip(y.astype(np.float64) + 0.0, -65504, 65504).astype(np.float16)
    np.testing.assert_array_equal(found.view(np.uint16), expected.view(np.uint16))
    assert fp16(np.array([-0.0], np.float32)).view(np.uint16)[0] == 0
    assert fp16(np.array([-1e-30], np.float32)).view(np.uint16)[0] == 0x8000
    np.testing.assert_array_equal(float32(halves), exact[:-1])
    assert fp16(np.float32(0.1)) == np.float16(0.1) and float32(np.float16(0.1)).dtype == np.float32


def test_store_and_add_round_twice() -> None:
    x, y, g = floats(0, 6, 40), floats(1, 6, 40), floats(2, 40).astype(np.float16)
    y[0, :4] = [0, 3, -3, 1]
    g[:4] = [-1, 0, 0, -0.0]
    found_store, found_add = store(y, g), add(x, y, g)
    for r in range(6):
        for n in range(40):
            product = unit.f32(Fraction(float(y[r, n])) * Fraction(float(g[n])))
            assert Fraction(float(found_store[r, n])) == product
            total = unit.f32(Fraction(float(x[r, n])) + product)
            assert Fraction(float(found_add[r, n])) == total
    assert not np.signbit(found_store[found_store == 0]).any()
    fused = (x.astype(np.float64) + y.astype(np.float64) * g.astype(np.float64)).astype(np.float32)
    assert (fused != found_add).any()  # one rounding less would be seen


def test_scalar_gate_must_be_a_half() -> None:
    y = floats(3, 4, 128)
    np.testing.assert_array_equal(store(y, 2.5), y * np.float32(2.5))
    with pytest.raises(ValueError, match=r"g is 0\.1; it must be an FP16 number"):
        store(y, 0.1)


def test_gelu_equals_fractions() -> None:
    edges = [0, 2.0**-80, 2.0**-24, 2.0**-15, 1 / 64, 1, 7.999, 8, 8.0001, 100, 70000, 2.0**80]
    near = [np.nextafter(np.float32(v), np.float32(s)) for v in (1 / 64, 8) for s in (0, 100)]
    y = np.array([*edges, *near, *np.random.default_rng(4).uniform(-9, 9, 300)], np.float32)
    y = np.concatenate([y, -y])
    found = gelu(y)
    for value, z in zip(y, found, strict=True):
        expected = unit.gelu(Fraction(float(value)))
        assert int(z.view(np.uint16)) == expected, value
    assert found[np.flatnonzero(y == -8)[0]].view(np.uint16) == 0  # exact zero: +0


def test_gelu_error_against_float64() -> None:
    """Section 8: of y * gate, before the rounding to FP16."""
    y = np.linspace(-12, 12, 1 << 19).astype(np.float32)
    product = y.astype(np.float64) * functions.gelu_factor(y) * 2.0**-16
    expected = F.gelu(torch.from_numpy(y).double(), approximate="tanh").numpy()
    error = np.abs(product - expected).max()
    assert 4e-5 < error < 5e-5


def heads(seed: int) -> NDArray[np.float32]:
    """[12, 64]: normal data, ties, one-signed, subnormal, zero, saturated, a single value."""
    rng = np.random.default_rng(seed)
    y = rng.standard_normal((12, 64)).astype(np.float32)
    y[1] = np.round(y[1] * 8) * np.float32(1.640625)
    y[2] = np.abs(y[2])
    y[3] = -np.abs(y[3])
    y[4] *= np.float32(2.0**-17)
    y[5] = 0
    y[6] *= 1e6
    y[7, 1:] = 0
    y[8] *= np.exp2(rng.uniform(-14, 5, 64)).astype(np.float32)
    y[9] = 1
    y[10] = np.where(np.arange(64) % 2, 60, 2.5)  # ties at a short scale
    y[11] = np.float32(2.0**-14)  # the smallest group that is not zero
    return y


@pytest.mark.parametrize("name", CACHE_FORMATS)
@pytest.mark.parametrize("kind", ["q", "k", "v"])
def test_records_equal_fractions(name: str, kind: str) -> None:
    fmt, y = get_format(name), heads(5)
    kappa = np.array([5.77, 144.27, 0.01, 6e-8] * 3, np.float16)
    found = records(y, fmt, kind, kappa)  # type: ignore[arg-type]
    assert found.codes.shape == (12, 64) and found.scales.shape == (12,)
    for i, row in enumerate(y):
        values = [Fraction(float(v)) for v in row]
        codes, scale = unit.record(values, fmt, kind, int(kappa[i].view(np.uint16)))
        assert found.codes[i].tolist() == codes
        assert found.scales[i] == scale
    batched = records(y.reshape(3, 4, 64), fmt, kind, kappa.reshape(3, 4))  # type: ignore[arg-type]
    np.testing.assert_array_equal(batched.codes.reshape(12, 64), found.codes)
    np.testing.assert_array_equal(batched.scales.ravel(), found.scales)


@pytest.mark.parametrize("name", CACHE_FORMATS)
def test_keys_have_length_one(name: str) -> None:
    fmt = get_format(name)
    y = np.random.default_rng(6).standard_normal((4000, 64)).astype(np.float32)
    codes, scales = records(y, fmt, "k")
    grid = codec(fmt).grid(torch.from_numpy(codes), torch.float64).numpy()
    length = np.sqrt((grid**2).sum(-1)) * scales.view(np.float16).astype(np.float64)
    error = np.abs(length - 1).max()
    assert 2.0**-12 < error < 2.0**-10.9


def test_records_refuse_what_they_cannot_hold() -> None:
    fmt = get_format("E2M3")
    with pytest.raises(ValueError, match="a head has 64"):
        records(np.zeros((2, 128), np.float32), fmt, "v")
    with pytest.raises(ValueError, match="kind 'x'"):
        records(np.zeros((2, 64), np.float32), fmt, "x")  # type: ignore[arg-type]
