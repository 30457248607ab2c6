# SPDX-License-Identifier: Apache-2.0
"""Sections 7 to 11 of the arithmetic contract with Python integers and fractions: slow and literal.

FP16 numbers are patterns, float32 numbers fractions. Tables are computed here, with decimals.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from decimal import ROUND_HALF_EVEN, Decimal, getcontext
from fractions import Fraction
from functools import cache

from lutvar.contract.formats import NumberFormat
from support.quant import golden_reference as ref

getcontext().prec = 60
ZERO = Fraction(0)


def f32(value: Fraction) -> Fraction:
    """Nearest float32."""
    return ref.round_fp32(value)


def fp16(value: Fraction) -> int:
    """Pattern of the nearest FP16 number, saturated."""
    limit = Fraction(65504)
    return ref.round_fp16(max(-limit, min(limit, value)))


def half(pattern: int) -> Fraction:
    return ref.fp16_value(pattern)


def nearest(value: Decimal) -> int:
    return int(value.to_integral_value(ROUND_HALF_EVEN))


def tree16(z: Sequence[Fraction]) -> Fraction:
    level = list(z)
    while len(level) > 1:
        level = [f32(a + b) for a, b in zip(level[::2], level[1::2], strict=True)]
    return level[0]


def row_sum(z: Sequence[Fraction]) -> Fraction:
    partial = [ZERO] * 16
    for i in range(len(z) // 16):
        partial[i % 16] = f32(partial[i % 16] + tree16(z[16 * i : 16 * i + 16]))
    return tree16(partial)


@cache
def _rsqrt_point(parity: int, step: int) -> int:
    return nearest(2**18 / ((1 + Decimal(step) / 128) * 2**parity).sqrt())


def rsqrt(v: Fraction) -> Fraction:
    """Section 8, for a positive float32 number."""
    x = 0
    while v >= Fraction(2) ** (x + 1):
        x += 1
    while v < Fraction(2) ** x:
        x -= 1
    fraction = (v / Fraction(2) ** x - 1) * 2**23
    assert fraction.denominator == 1
    parity, top, u = x % 2, int(fraction) >> 16, int(fraction) & 0xFFFF
    start = _rsqrt_point(parity, top)
    fall = start - _rsqrt_point(parity, top + 1)
    y = start - ((fall * u + 2**15) >> 16)
    return y * Fraction(2) ** (-18 - (x - parity) // 2)


def layer_norm(
    x: Sequence[Fraction], a: Sequence[int], b: Sequence[int], eps: Fraction
) -> list[int]:
    """Section 9, for one row; a and b are patterns."""
    inverse = f32(Fraction(1, len(x)))
    values = [half(fp16(v)) for v in x]
    mean = f32(row_sum(values) * inverse)
    square = f32(row_sum([v * v for v in values]) * inverse)
    variance = max(ZERO, f32(square - f32(mean * mean)))
    r = rsqrt(f32(variance + eps))
    return [
        fp16(f32(f32(f32(f32(v - mean) * r) * half(aj)) + half(bj)))
        for v, aj, bj in zip(values, a, b, strict=True)
    ]


@cache
def _gate_point(i: int) -> int:
    y = Decimal(i) / 64
    pi = Decimal("3.14159265358979323846264338327950288419716939937510582")
    t = (2 / pi).sqrt() * (y + Decimal("0.044715") * y**3)
    grown = (2 * t).exp()
    return 2**16 if i == 512 else nearest(2**16 * grown / (grown + 1))


@cache
def _silu_point(i: int) -> int:
    return 2**16 if i == 512 else nearest(2**16 / (1 + (-Decimal(i) / 32).exp()))


def gelu(y: Fraction) -> int:
    """Section 10, for one float32 number."""
    return _gated(y, 8, _gate_point)


def silu(y: Fraction) -> int:
    """Section 14, for one float32 number."""
    return _gated(y, 16, _silu_point)


def _gated(y: Fraction, reach: int, point: Callable[[int], int]) -> int:
    gate = 2**16
    if abs(y) < reach:
        a = int(abs(y) * 2**18 / reach)
        start = point(a >> 9)
        gate = start + (((point((a >> 9) + 1) - start) * (a & 511) + 256) >> 9)
    if y < 0:
        gate = 2**16 - gate
    return fp16(y * Fraction(gate, 2**16))


def record(
    y: Sequence[Fraction], fmt: NumberFormat, kind: str, kappa: int
) -> tuple[list[int], int]:
    """Section 10, codes and scale of one head of one row; kappa is a pattern."""
    codes, peak, _ = ref.quantize_group([fp16(v) for v in y], fmt, "even")
    if kind == "v":
        return codes, peak
    total = sum(ref.grid(c, fmt) ** 2 for c in codes)
    if total == 0:
        return codes, 0
    return codes, fp16((half(kappa) if kind == "q" else 1) * rsqrt(Fraction(total)))


def score(d: int, s_q: int, s_k: int) -> int:
    t = (d * half(s_q) * half(s_k) * 1024 + Fraction(1, 2)).__floor__()
    return max(-(2**18), min(2**18 - 1, t))


@cache
def _exp2_point(f: int) -> int:
    return nearest(2**15 * Decimal(2) ** (-Decimal(f) / 1024))


def attend(
    q: tuple[Sequence[int], int],
    keys: Sequence[tuple[Sequence[int], int]],
    values: Sequence[tuple[Sequence[int], int]],
    fmt: NumberFormat,
) -> list[int]:
    """Section 11, one query row: patterns."""
    grid = [ref.grid(c, fmt) for c in range(2**fmt.bits)]
    t = [
        score(sum(grid[a] * grid[b] for a, b in zip(q[0], k, strict=True)), q[1], s)
        for k, s in keys
    ]
    p = [_exp2_point((max(t) - v) % 1024) >> (max(t) - v) // 1024 for v in t]
    total = sum(p)
    fields = [max(m >> 10, 1) for _, m in values]
    significands = [(m & 1023) + (1024 if m >> 10 else 0) for _, m in values]
    largest = max(fields)
    w = [(pj * s) >> (11 + largest - e) for pj, s, e in zip(p, significands, fields, strict=True)]
    top = fmt.positive.top
    q_bits = next(i for i in range(9) if (top >> i) % 2)
    mu = top >> q_bits
    z = next(i for i in range(9) if 2**i >= mu)
    n = total.bit_length()
    reciprocal = 2 ** (43 + z) // (mu * (total << (28 - n)))
    x = 11 + largest - 25 - q_bits + (28 - n) - (43 + z)
    result = []
    for d in range(64):
        a = sum(wj * grid[c[d]] for wj, (c, _) in zip(w, values, strict=True))
        result.append(fp16(a * reciprocal * Fraction(2) ** x))
    return result
