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
    exact = [float(sum(map(int, row))) for row in squares.reshape(-1, squares.shape[-1])]
    return np.array(exact, np.float64).reshape(squares.shape[:-1])


def attention(qkv_BNC: Float32) -> Half:
    """Attention of all pixels of a map over one another, one head, in integers.

    All products are integers below 2**53, so that any order of the sums is exact.

    Args:
        qkv_BNC: q, k and v of N pixels, [B, N, 3 * C].

    Returns:
        [B, N, C].
    """
    C = qkv_BNC.shape[-1] // 3
    q, k, v = (fp16(qkv_BNC[..., i * C : (i + 1) * C]).astype(np.float64) for i in range(3))
    codes_q, scale_q = _integers(q, -1)
    codes_k, scale_k = _integers(k, -1)
    codes_v, scale_v = _integers(v, -2)
    factor = np.float64(math.log2(math.e) * 2**functions.EXP2_FRACTION / LEVELS**2) / np.sqrt(
        np.float64(C)
    )
    dots = codes_q @ codes_k.swapaxes(-1, -2)
    scores = dots * (scale_q * scale_k.swapaxes(-1, -2))
    scores = np.floor(scores * factor + 0.5)
    distance = scores.max(-1, keepdims=True) - scores
    weights = functions.exp2(np.minimum(distance, 1 << 20).astype(np.int64)).astype(np.float64)
    total = weights.sum(-1, keepdims=True)
    result = (weights @ codes_v) * scale_v
    return fp16(result / (total * LEVELS))


def _integers(x: NDArray[np.float64], axis: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Integers of -2047 to 2047 and the largest magnitudes along an axis, which stand for 2047."""
    largest = np.abs(x).max(axis, keepdims=True)
    return np.rint(x * LEVELS / np.where(largest == 0, 1.0, largest)), largest


def pixels(raw: Float32) -> Float32:
    """The image in [0, 1] of the last raw map, any shape."""
    limited: Float32 = np.clip(raw, np.float32(-1), np.float32(1))
    return (limited + np.float32(1)) * np.float32(0.5)
