# SPDX-License-Identifier: Apache-2.0
"""The host's share of the decoder: vectors of the norms, attention, pixels (section 14).

Golden model and driver compute with these functions, in numpy alone.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from . import column_sums, functions
from .decoder import NORM_GROUPS

Float32 = NDArray[np.float32]
Half = NDArray[np.float16]

FP16_LARGEST = 65504.0
LEVELS = 2047  #: largest integer of q, k and v
_LEAST_NORMAL = 0x3880_0000  #: the bits of 2**-14 in float32, FP16's smallest normal value


def fp16(y: NDArray[Any]) -> Half:
    """Round float32 or float64 once to FP16: nearest even, gradual underflow, saturated.

    An exact zero gives +0; a negative value that rounds to zero gives -0.
    """
    return np.clip(y + 0.0, -FP16_LARGEST, FP16_LARGEST).astype(np.float16)


def need_finite(name: str, values: NDArray[np.float32]) -> None:
    """Raise ValueError naming the first value of a map that is not finite."""
    finite = np.isfinite(values)
    if not finite.all():
        index = tuple(int(i) for i in np.argwhere(~finite)[0])
        raise ValueError(
            f"{name}: value {values[index]} at {index} is not finite; the decoder needs finite "
            "feature maps (find where it arises: latent map or weights)"
        )


class Sums(NamedTuple):
    """What POST sums of each channel: exact integers, so that no order matters.

    Attributes:
        values: [B, C] int64, of `n = x * 2**10` rounded to nearest even, limited to 24 bits.
        squares: [B, C] uint64, of `n**2`.
    """

    values: NDArray[np.int64]
    squares: NDArray[np.uint64]


class Vectors(NamedTuple):
    """Scale and shift of each channel, [B, C] FP16."""

    scale: Half
    shift: Half


def vectors(found: Sums, pixels: int, weight_C: Float32, bias_C: Float32, eps: float) -> Vectors:
    """Scale and shift of a group norm, from the sums of its input.

    Every line below is one float64 operation for each value, rounded to nearest even.

    Args:
        found: sums of each channel.
        pixels: of the map.
        weight_C, bias_C: of the norm.
        eps: added to the variance.
    """
    B, C = found.values.shape
    share = C // NORM_GROUPS
    count = np.float64(pixels * share)
    unit = np.float64(2.0**-column_sums.FRACTION)
    values = found.values.reshape(B, NORM_GROUPS, share).sum(-1).astype(np.float64)
    squares = _total(found.squares.reshape(B, NORM_GROUPS, share))
    mean = values / count
    mean = mean * unit
    power = squares / count
    power = power * (unit * unit)
    variance = power - mean * mean
    variance = np.maximum(variance, 0.0) + np.float64(eps)
    root = np.sqrt(variance)
    mean, root = (np.repeat(x, share, axis=1) for x in (mean, root))
    scale = fp16(weight_C.astype(np.float64) / root)
    product = mean * scale.astype(np.float64)
    return Vectors(scale, fp16(bias_C.astype(np.float64) - product))


def _total(squares: NDArray[np.uint64]) -> NDArray[np.float64]:
    """Exact sums over the last axis, which may need more than 64 bits, rounded once."""
    # Both halves of the sums are exact, and so is their rounding.
    upper = (squares >> np.uint64(32)).sum(-1).astype(np.float64)
    lower = (squares & np.uint64(0xFFFF_FFFF)).sum(-1).astype(np.float64)
    return upper * 2.0**32 + lower


def attention(qkv_BNC: Float32) -> Half:
    """Attention of all pixels of a map over one another, one head, in integers.

    All products are integers below 2**53, so that any order of the sums is exact.

    Args:
        qkv_BNC: q, k and v of N pixels, [B, N, 3 * C].

    Returns:
        [B, N, C].
    """
    C = qkv_BNC.shape[-1] // 3
    q, scale_q = _integers(_fp16_values(qkv_BNC[..., :C]), -1)
    k, scale_k = _integers(_fp16_values(qkv_BNC[..., C : 2 * C]), -1)
    v, scale_v = _integers(_fp16_values(qkv_BNC[..., 2 * C :]), -2)
    factor = np.float64(math.log2(math.e) * 2**functions.EXP2_FRACTION / LEVELS**2) / np.sqrt(
        np.float64(C)
    )
    # In place: fresh memory would take as long as the arithmetic.
    scores = q @ k.swapaxes(-1, -2)
    scores *= scale_q * scale_k.swapaxes(-1, -2)
    scores *= factor
    scores += 0.5
    np.floor(scores, out=scores)
    np.subtract(scores.max(-1, keepdims=True), scores, out=scores)
    weights = functions.exp2(np.minimum(scores, 1 << 20, out=scores).astype(np.int64))
    total = weights.sum(-1, keepdims=True)
    result = np.matmul(weights.astype(np.float64), v, out=q)
    result *= scale_v
    result /= total.astype(np.float64) * LEVELS
    return fp16(result)


def _fp16_values(x: Float32) -> Float32:
    """`fp16` that stays float32: numpy's conversions to FP16 and back take ten times as long."""
    limited = np.empty(x.shape, np.float32)
    np.clip(x, -FP16_LARGEST, FP16_LARGEST, out=limited)
    bits = limited.reshape(-1).view(np.uint32)
    small = np.flatnonzero(bits & 0x7FFF_FFFF < _LEAST_NORMAL)
    # Steps of 2**-24 are those of float32 from 1/2 to 1.
    steps = (limited.reshape(-1)[small] + np.float32(0.75)) - np.float32(0.75)
    bits += ((bits >> 13) & 1) + 0xFFF
    bits &= 0xFFFF_E000
    limited.reshape(-1)[small] = steps
    return limited


def _integers(x: Float32, axis: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Integers of -2047 to 2047 and the largest magnitudes along an axis, which stand for 2047.

    x is overwritten. For FP16 values float32 gives the integers of float64: the product is exact,
    and an inexact quotient is farther from every tie (1 / (2 * m) with m of 11 bits) than what it
    is rounded by.
    """
    largest = np.maximum(x.max(axis, keepdims=True), -x.min(axis, keepdims=True))
    x *= np.float32(LEVELS)
    x /= np.where(largest == 0, np.float32(1), largest)
    np.rint(x, out=x)
    return x.astype(np.float64), largest.astype(np.float64)


def pixels(raw: Float32) -> Float32:
    """The image in [0, 1] of the last raw map, any shape."""
    limited: Float32 = np.clip(raw, np.float32(-1), np.float32(1))
    return (limited + np.float32(1)) * np.float32(0.5)
