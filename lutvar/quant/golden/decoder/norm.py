# SPDX-License-Identifier: Apache-2.0
"""Group norm in three pieces: sums while a map is written, vectors, NORM (contract, section 14)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lutvar.contract.decoder import NORM_GROUPS, STATISTICS_BITS, STATISTICS_FRACTION
from lutvar.quant.golden.pointwise import Float32, Half, float32, fp16, multiply, silu

_LARGEST = (1 << STATISTICS_BITS - 1) - 1


class Sums(NamedTuple):
    """What POST sums of each channel: exact integers, so that no order matters.

    Attributes:
        values: [B, C] int64, of `n = x * 2**10` rounded to nearest even, limited to 24 bits.
        squares: [B, C] uint64, of `n**2`.
    """

    values: NDArray[np.int64]
    squares: NDArray[np.uint64]


def sums(raw_BSSC: Float32) -> Sums:
    """Sums over all pixels of a raw map [B, S, S, C]."""
    B, C = len(raw_BSSC), raw_BSSC.shape[-1]
    scaled = np.rint(raw_BSSC.reshape(B, -1, C) * np.float32(1 << STATISTICS_FRACTION))
    n = np.clip(scaled, -_LARGEST, _LARGEST).astype(np.int64)
    return Sums(n.sum(1), (n * n).astype(np.uint64).sum(1))


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
    unit = np.float64(2.0**-STATISTICS_FRACTION)
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


def norm(raw_BSSC: Float32, found: Vectors | None, gate: bool) -> Half:
    """NORM: `fp16(RNE(RNE(x * g) + s))`, with SiLU's gate before the rounding to FP16.

    Args:
        raw_BSSC: raw map.
        found: scale and shift; None: 1 and 0.
        gate: SiLU follows.
    """
    y = np.asarray(raw_BSSC, np.float32)
    if found is not None:
        scale, shift = (float32(x)[:, None, None, :] for x in found)
        y = multiply(y, scale) + shift
    return silu(y) if gate else fp16(y)
