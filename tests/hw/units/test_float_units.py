# SPDX-License-Identifier: Apache-2.0
"""float32 and FP16 units against numpy and exact integers: ties, carries, subnormals, zeros."""

import gc
import itertools
import random
from fractions import Fraction

import numpy as np
import pytest

from lutvar.contract.functions import rsqrt
from lutvar.hw.units.fp16_to_fp32 import Fp16ToFp32
from lutvar.hw.units.fp32_multiply import Fp32Multiply
from lutvar.hw.units.fp32_to_fp16 import Fp32ToFp16
from lutvar.hw.units.rsqrt import Rsqrt
from lutvar.hw.units.sum16 import Sum16
from support.hw.pipeline import run_pipeline

FRACTIONS = (0, 1, 2, 3, 0x3FFFFF, 0x400000, 0x400001, 0x555555, 0x7FFFFD, 0x7FFFFE, 0x7FFFFF)


def floats(patterns: list[int]) -> np.ndarray:
    return np.array(patterns, np.uint32).view(np.float32)


# -- multiply ------------------------------------------------------------------------------


def operands(bits: int) -> list[tuple[int, int]]:
    """Boundary fractions, zeros of both signs, exact ties and their neighbours, random pairs."""
    rng = random.Random(bits)
    keep = 0xFFFFFFFF << 24 - bits & 0xFFFFFFFF

    def number() -> int:
        return rng.getrandbits(1) << 31 | rng.randint(90, 160) << 23 | rng.getrandbits(23)

    pairs = [
        (130 << 23 | a, sign << 31 | 120 << 23 | b)
        for a, b, sign in itertools.product(FRACTIONS, FRACTIONS, (0, 1))
    ]
    zeros = (0, 1 << 31)
    pairs += [*itertools.product(zeros, zeros)]
    pairs += [pair for z in zeros for v in (number(), number()) for pair in ((z, v), (v, z))]
    pairs += [(1 << 23 | 5, 254 << 23), (254 << 23, 1 << 23)]
    ties = 0
    for _ in range(40_000):
        x = ((1 << 23) + rng.getrandbits(23)) >> (cut := rng.randrange(20)) << cut
        y = ((1 << 23) + rng.getrandbits(23) & keep) >> (cut := rng.randrange(20)) << cut
        product = x * y
        extra = product.bit_length() - 24
        if ties < 200 and product & (1 << extra) - 1 == 1 << extra - 1:
            ties += 1
            low = 127 << 23 | x & 0x7FFFFF
            pairs += [(low, 127 << 23 | y & 0x7FFFFF), (low ^ 1, 127 << 23 | y & 0x7FFFFF)]
    assert ties > 50
    pairs += [(number(), number()) for _ in range(3000)]
    return [(x, y & keep) for x, y in pairs]


@pytest.mark.parametrize("bits", [2, 11, 17, 19, 24])
def test_multiply(bits: int) -> None:
    pairs = operands(bits)
    inputs = [{"x": x, "y": y} for x, y in pairs]
    results = run_pipeline(Fp32Multiply(bits), inputs, ("s",), latency=Fp32Multiply.LATENCY)
    x, y = (floats(list(side)) for side in zip(*pairs, strict=True))
    expected = (x * y).view(np.uint32)
    for (a, b), (got,), want in zip(pairs, results, expected, strict=True):
        assert got == want, f"{a:08x} * {b:08x}: {got:08x}, not {want:08x}"


def test_multiply_ignores_other_bits() -> None:
    unit = Fp32Multiply(11)
    inputs = [{"x": 0x40490FDB, "y": 0x3FAAA000 | low} for low in (0, 1, 0x1FFF)]
    results = run_pipeline(unit, inputs, ("s",), latency=Fp32Multiply.LATENCY)
    assert len(set(results)) == 1


@pytest.mark.parametrize("bits", [11, 17, 24])
def test_multiply_to_odd(bits: int) -> None:
    """Truncated, last bit set if inexact; a later rounding to FP16 equals that of the product."""
    pairs = [p for p in operands(bits) if all(v & 0x7F800000 for v in p)]
    inputs = [{"x": x, "y": y} for x, y in pairs]
    unit = Fp32Multiply(bits, odd=True)
    results = run_pipeline(unit, inputs, ("s",), latency=Fp32Multiply.LATENCY)
    for (a, b), (got,) in zip(pairs, results, strict=True):
        exact = ((1 << 23) + (a & 0x7FFFFF)) * ((1 << 23) + (b & 0x7FFFFF))
        high = exact.bit_length() == 48
        kept, rest = divmod(exact, 1 << 23 + high)
        field = (a >> 23 & 255) + (b >> 23 & 255) - 127 + high
        assert got == (a ^ b) & 1 << 31 | field << 23 | kept & 0x7FFFFF | (rest > 0)


@pytest.mark.filterwarnings("ignore::amaranth.hdl.UnusedElaboratable")
@pytest.mark.parametrize("bits", [1, 25])
def test_multiply_refuses_widths(bits: int) -> None:
    with pytest.raises(ValueError, match=f"bits is {bits}"):
        Fp32Multiply(bits)
    gc.collect()


# -- conversions ---------------------------------------------------------------------------


def test_fp16_to_fp32_every_pattern() -> None:
    patterns = [p for p in range(0, 0x10000, 3) if p & 0x7C00] + [
        p for p in range(0x10000) if not p & 0x7C00
    ]
    inputs = [{"x": p} for p in patterns]
    results = run_pipeline(Fp16ToFp32(), inputs, ("y",), latency=Fp16ToFp32.LATENCY)
    for p, (got,) in zip(patterns, results, strict=True):
        want = int(np.uint16(p).view(np.float16).astype(np.float32).view(np.uint32))
        if p & 0x7C00 == 0x7C00:  # ordinary on the device
            want = (p & 0x8000) << 16 | 143 << 23 | (p & 0x3FF) << 13
        assert got == want, f"{p:04x}: {got:08x}, not {want:08x}"


def fp16_cases() -> list[int]:
    """Around every decision point in selected binades, all distances below normal, saturation."""
    rng = random.Random(16)
    magnitudes = [0, 1 << 23, 0x7F7FFFFF, 0x7F800000]
    for p in [*range(0, 40), *range(0x3E0, 0x420), *range(0x7BF0, 0x7C00)]:
        value = np.array([p], np.uint16).view(np.float16).astype(np.float64)[0]
        above = np.array([p + 1], np.uint16).view(np.float16).astype(np.float64)[0]
        half = (value + (above if np.isfinite(above) else 65536.0)) / 2
        for point in (value, half):
            middle = int(np.float32(point).view(np.uint32))
            magnitudes += [max(0, middle + d) for d in (-1, 0, 1)]
    magnitudes += [e << 23 | f for e in range(96, 150) for f in FRACTIONS]
    magnitudes += [rng.randint(95, 145) << 23 | rng.getrandbits(23) for _ in range(3000)]
    magnitudes = [v for v in magnitudes if v == 0 or v >= 1 << 23]
    return [v | rng.getrandbits(1) << 31 for v in magnitudes] + [0, 1 << 31]


def test_fp32_to_fp16() -> None:
    cases = fp16_cases()
    results = run_pipeline(
        Fp32ToFp16(), [{"x": v} for v in cases], ("y",), latency=Fp32ToFp16.LATENCY
    )
    expected = np.clip(floats(cases), -65504, 65504).astype(np.float16).view(np.uint16)
    for v, (got,), want in zip(cases, results, expected, strict=True):
        assert got == want, f"{v:08x}: {got:04x}, not {want:04x}"


# -- functions -----------------------------------------------------------------------------


def test_rsqrt() -> None:
    rng = random.Random(18)
    fields = (1, 2, 126, 127, 128, 129, 253, 254)
    cases = [e << 23 | f for e in fields for f in (*FRACTIONS, 0xFFFF, 0x10000, 0x7F0000)]
    cases += [
        rng.choice((127, 128)) << 23 | s << 16 | low for s in range(128) for low in (0, 65535)
    ]
    cases += [rng.randint(30, 220) << 23 | rng.getrandbits(23) for _ in range(3000)]
    results = run_pipeline(Rsqrt(), [{"x": v} for v in cases], ("y",), latency=Rsqrt.LATENCY)
    big, k = rsqrt(floats(cases))
    for v, (got,), y, down in zip(cases, results, big, k, strict=True):
        want = Fraction(int(y)) * Fraction(2) ** (-18 - int(down))
        assert Fraction(float(floats([got])[0])) == want, f"{v:08x}: {got:08x}"


def test_sum16() -> None:
    rng = np.random.default_rng(4)
    z = rng.normal(size=(400, 16)).astype(np.float32)
    z *= np.exp2(rng.integers(-20, 20, size=z.shape)).astype(np.float32)
    z[:40] = rng.normal(size=(40, 16)).astype(np.float16)
    z[40:60, 1::2] = -z[40:60, ::2]  # cancels exactly
    z[60] = 0
    inputs = [{"z": row.view(np.uint32).tolist()} for row in z]

    results = run_pipeline(Sum16(), inputs, ("s",), latency=Sum16.LATENCY)
    total = z
    while total.shape[1] > 1:
        total = total[:, ::2] + total[:, 1::2]
    assert [got for (got,) in results] == total[:, 0].view(np.uint32).tolist()
