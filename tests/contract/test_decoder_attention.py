# SPDX-License-Identifier: Apache-2.0
"""Attention over a map: against float64, and with Python integers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from lutvar.contract import decoder_host, functions
from lutvar.contract.decoder_host import attention, fp16


def qkv(seed: int, pixels: int, channels: int, sharpness: float = 1.0) -> np.ndarray:
    x = np.random.default_rng(seed).standard_normal((2, pixels, 3 * channels)).astype(np.float32)
    x[..., :channels] *= np.float32(sharpness)
    return x


@pytest.mark.parametrize("sharpness", [0.0, 1.0, 4.0])
@pytest.mark.parametrize(("pixels", "channels"), [(16, 32), (64, 64), (256, 640)])
def test_it_is_softmax_attention(pixels: int, channels: int, sharpness: float) -> None:
    x = qkv(1, pixels, channels, sharpness)
    q, k, v = torch.from_numpy(x).double().split(channels, -1)
    weights = ((q @ k.transpose(1, 2)) * channels**-0.5).softmax(-1)
    expected = (weights @ v).numpy()
    found = attention(x).astype(np.float64)
    noise = np.square(found - expected).mean() / np.square(expected).mean()
    assert -10 * math.log10(noise) > 45


def test_every_operation_with_integers() -> None:
    N, C = 5, 32
    x = qkv(2, N, C, 3.0)[:1]
    x[0, 2, :C] = 0  # a query without direction weighs all the same
    found = attention(x)
    half = x[0].astype(np.float16).astype(np.float64)
    q, k, v = (half[:, i * C : (i + 1) * C] for i in range(3))

    def codes(values: np.ndarray) -> tuple[list[int], float]:
        largest = max(map(abs, values.tolist()))
        return [round(v * 2047 / largest) if largest else 0 for v in values.tolist()], largest

    factor = math.log2(math.e) * 2**10 / 2047**2 / math.sqrt(C)
    columns = [codes(v[:, c]) for c in range(C)]
    for i in range(N):
        cq, mq = codes(q[i])
        scores = []
        for j in range(N):
            ck, mk = codes(k[j])
            dot = sum(a * b for a, b in zip(cq, ck, strict=True))
            scores.append(math.floor(dot * (mq * mk) * factor + 0.5))
        table = functions.exp2_table()
        away = [max(scores) - s for s in scores]
        p = [table[d % 1024] >> min(d // 1024, 31) for d in away]
        for c, (cv, mv) in enumerate(columns):
            total = sum(a * b for a, b in zip(p, cv, strict=True))
            assert found[0, i, c] == np.float16(total * mv / (sum(p) * 2047))


def test_zeros_stay_zeros() -> None:
    assert (attention(np.zeros((1, 4, 96), np.float32)) == 0).all()


def test_fp16_values_are_those_of_fp16() -> None:
    """Every FP16 value, every tie between two of them and its neighbours, and what lies beyond."""
    half = np.arange(1 << 16, dtype=np.uint32).astype(np.uint16).view(np.float16)
    exact = np.sort(half[np.isfinite(half)].astype(np.float32))
    ties = ((exact[1:].astype(np.float64) + exact[:-1]) / 2).astype(np.float32)
    around = (np.nextafter(ties, np.float32(side)) for side in (-np.inf, np.inf))
    bits = np.random.default_rng(6).integers(0, 1 << 32, 100_000, np.uint32)
    values = bits.view(np.float32)
    x = np.concatenate([exact, ties, *around, values[np.isfinite(values)]])
    before = x.copy()
    found = decoder_host._fp16_values(x)
    np.testing.assert_array_equal(found, fp16(x).astype(np.float32))
    np.testing.assert_array_equal(x, before)


@pytest.mark.parametrize("shift", [0, 1, 3, 8, 15])
def test_integers_in_float32_are_those_of_float64(shift: int) -> None:
    """Significands of a value and of the largest one; the value is `shift` places smaller."""
    largest = np.arange(1024, 2048, dtype=np.float32)[::7, None]
    x = np.arange(0, 2048, dtype=np.float32) * np.float32(2.0**-shift)
    x = np.concatenate([np.where(x <= largest, x, 0), largest], 1)
    wanted = np.rint(x.astype(np.float64) * 2047 / largest.astype(np.float64))
    codes, found = decoder_host._integers(x.copy(), -1)
    np.testing.assert_array_equal(codes, wanted)
    np.testing.assert_array_equal(found, largest)
