# SPDX-License-Identifier: Apache-2.0
"""LayerNorm with AdaLN as FRONT computes it, and sums of a defined shape (contract, 7 and 9)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lutvar.contract.accelerator import LANES

from .pointwise import Float32, Half, float32, fp16, multiply, rsqrt


def tree16(z: Float32) -> Float32:
    """Sums [...] of [..., 16]: adjacent pairs, four levels, each addition rounded to float32."""
    if z.shape[-1] != LANES:
        raise ValueError(f"{z.shape[-1]} values; a tree adds {LANES}")
    while z.shape[-1] > 1:
        z = z[..., 0::2] + z[..., 1::2]
    return z[..., 0]


def row_sum(z: Float32) -> Float32:
    """Sums [...] of rows [..., C] in the order of section 7; C a multiple of 16.

    Sixteen partial sums take the trees of beats of 16 values in turn; a tree adds them up.
    """
    if z.shape[-1] % LANES:
        raise ValueError(f"rows of {z.shape[-1]} values; must be a multiple of {LANES}")
    beats = tree16(np.asarray(z, np.float32).reshape(*z.shape[:-1], -1, LANES))
    partial = np.zeros((*z.shape[:-1], LANES), np.float32)
    for start in range(0, beats.shape[-1], LANES):
        part = beats[..., start : start + LANES]
        partial[..., : part.shape[-1]] += part
    return tree16(partial)


def inverse_width(width: int) -> np.float32:
    """`1 / C` rounded to float32: the instruction's operand."""
    return np.float32(1.0 / width)


def statistics(x: Half, eps: float) -> tuple[Float32, Float32]:
    """Mean and reciprocal standard deviation of FP16 rows [..., C], both [...] float32."""
    inverse = inverse_width(x.shape[-1])
    values = float32(x)
    mean = multiply(row_sum(values), inverse)
    # Squares of FP16 numbers have 22 significant bits: exact.
    square = multiply(row_sum(values * values), inverse)
    variance = np.maximum(square - multiply(mean, mean), np.float32(0))
    return mean, rsqrt(variance + np.float32(eps)).astype(np.float32)


def layer_norm(
    x: Float32, scale: NDArray[np.float16], shift: NDArray[np.float16], eps: float
) -> Half:
    """`fp16(((fp16(x) - mean) * r) * scale + shift)`, each operation rounded to float32.

    Args:
        x: [..., C] float32 rows of the residual stream.
        scale: [C] (or broadcast against x) FP16, 1 already added.
        shift: the same shape, FP16.
        eps: added to the variance, as float32.
    """
    half = fp16(np.asarray(x, np.float32))
    mean, r = statistics(half, eps)
    centred = float32(half) - mean[..., None]
    scaled = multiply(multiply(centred, r[..., None]), float32(scale))
    return fp16(scaled + float32(shift))
