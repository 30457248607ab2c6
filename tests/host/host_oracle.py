# SPDX-License-Identifier: Apache-2.0
"""A slow and plain second opinion on the arithmetic contract, for the device double of these tests.

Written from docs/arithmetic.md alone, in float64 and integers: no code is shared with the golden
model.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from lutvar.contract.config import GROUP
from lutvar.contract.hadamard import sign_vector
from lutvar.quant.formats import NumberFormat

_SMALLEST = 2.0**-14


def fp16_value(pattern: np.ndarray) -> np.ndarray:
    """Extended FP16 patterns to float64 (section 1)."""
    pattern = pattern.astype(np.int64)
    exponent, fraction = pattern >> 10 & 31, pattern & 1023
    significand = np.where(exponent > 0, 1024 + fraction, fraction)
    return significand * 2.0 ** (np.maximum(exponent, 1) - 25)


def fp16_pattern(value: np.ndarray) -> np.ndarray:
    """Nearest extended FP16 pattern, ties to even; value >= 0."""
    with np.errstate(over="ignore"):
        plain = value.astype(np.float16).view(np.uint16)
    extended = 0x7C00 + np.rint(value / 64).astype(np.int64) - 1024
    return np.where(value >= 65520, extended, plain).astype(np.uint16)


def rotate(x: np.ndarray, seed: int) -> np.ndarray:
    """Section 3 on float64 [R, K]; the result is FP16 values in float64."""
    index = np.arange(GROUP)
    parity = np.array([[bin(i & j).count("1") & 1 for j in index] for i in index])
    groups = x.reshape(len(x), -1, GROUP) * np.array(sign_vector(seed))
    return (
        (groups @ (1 - 2 * parity).T / 128).astype(np.float16).astype(np.float64).reshape(x.shape)
    )


def _half(x: np.ndarray, fmt: NumberFormat, negative: bool) -> tuple[np.ndarray, np.ndarray]:
    """Codes without sign and maximum of the magnitudes [..., 128] of one half."""
    top = fmt.scale_top(negative)
    levels = [v for v in fmt.half(negative).levels if v <= top]
    m = x.max(axis=-1, keepdims=True)
    m = np.where(m < _SMALLEST, 0.0, m)
    rank = np.zeros(x.shape, dtype=np.int64)
    for i, twice in enumerate(a + b for a, b in pairwise(levels)):
        left, right = 2.0 * top * x, twice * m
        rank += (left > right) | ((left == right) & (i % 2 == 1))
    codes = (
        np.array([fmt.encode_int(v, False) for v in levels])
        if not negative
        else np.array([fmt.encode_int(v, True) for v in levels])
    )
    return np.where(m > 0, codes[rank], 0), m[..., 0]


def quantize(x: np.ndarray, fmt: NumberFormat) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Section 4, ties to even: codes [R, K], scale and negative scale patterns [R, G]."""
    groups = x.reshape(len(x), -1, GROUP)
    negative = groups < 0
    if fmt.dual:
        below, m_neg = _half(np.where(negative, -groups, 0.0), fmt, True)
        above, m = _half(np.where(negative, 0.0, groups), fmt, False)
        ratio = fmt.scale_top(False), fmt.scale_top(True)
        scale_neg = fp16_pattern(m_neg * ratio[0] / ratio[1])
    else:
        above, m = _half(np.abs(groups), fmt, False)
        magnitude = np.array(
            [fmt.half(False).magnitudes[c] for c in range(len(fmt.positive.magnitudes))]
        )
        signed = {v: fmt.encode_int(int(v), True) for v in magnitude if v <= fmt.scale_top()}
        table = np.array([signed.get(v, 0) for v in magnitude])
        below, scale_neg = table[above], np.zeros(m.shape, np.uint16)
    codes = np.where(negative, below, above).astype(np.uint8)
    return codes.reshape(x.shape), fp16_pattern(m), scale_neg


def integers(codes: np.ndarray, fmt: NumberFormat) -> np.ndarray:
    """Grid integers of codes, int64."""
    return np.array([fmt.decode_int(c) or 0 for c in range(fmt.code_count)])[codes]


def multiply(
    codes: np.ndarray,
    scale: np.ndarray,
    scale_neg: np.ndarray,
    fmt: NumberFormat,
    weight: tuple[np.ndarray, np.ndarray, np.ndarray],
    weight_format: NumberFormat,
    exponent: int,
) -> np.ndarray:
    """Section 5: float32 [R, O] from activation codes and (weight codes, scales, bias)."""
    weight_codes, weight_scales, bias = weight
    a, w = integers(codes, fmt), integers(weight_codes, weight_format)
    ws = fp16_value(weight_scales)
    acc = np.repeat(bias[None].astype(np.float32), len(codes), axis=0)
    sign = codes >= fmt.sign_bit
    passes = [(sign, scale_neg), (~sign, scale)] if fmt.dual else [(np.ones_like(sign), scale)]
    for g in range(scale.shape[1]):
        lanes = slice(g * GROUP, (g + 1) * GROUP)
        for chosen, patterns in passes:
            d = np.where(chosen, a, 0)[:, lanes] @ w[:, lanes].T
            product = d * (fp16_value(patterns[:, g])[:, None] * ws[:, g] * 2.0**exponent)
            acc = acc + product.astype(np.float32)
    return acc
