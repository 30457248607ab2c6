# SPDX-License-Identifier: Apache-2.0
"""Attention of all pixels of a map, one head, in integers on the host (contract, section 14)."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray

from lutvar.contract import functions
from lutvar.quant.golden.pointwise import Float32, Half, fp16

LEVELS = 2047  #: largest integer of q, k and v


def attention(qkv_BNC: Float32) -> Half:
    """Results [B, N, C] of q, k and v of N pixels, [B, N, 3 * C] float32.

    All products are integers below 2**53, so that any order of the sums is exact.
    """
    C = qkv_BNC.shape[-1] // 3
    q, k, v = (fp16(qkv_BNC[..., i * C : (i + 1) * C]).astype(np.float64) for i in range(3))
    codes_q, scale_q = _integers(q, -1)
    codes_k, scale_k = _integers(k, -1)
    codes_v, scale_v = _integers(v, -2)
    factor = np.float64(math.log2(math.e) * 2**functions.EXP2_FRACTION / LEVELS**2) / np.sqrt(
        np.float64(C)
    )
    dots = _product(codes_q, codes_k.swapaxes(-1, -2))
    scores = dots * (scale_q * scale_k.swapaxes(-1, -2))
    scores = np.floor(scores * factor + 0.5)
    distance = scores.max(-1, keepdims=True) - scores
    weights = functions.exp2(np.minimum(distance, 1 << 20).astype(np.int64)).astype(np.float64)
    total = weights.sum(-1, keepdims=True)
    result = _product(weights, codes_v) * scale_v
    return fp16(result / (total * LEVELS))


def _integers(x: NDArray[np.float64], axis: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Integers of -2047 to 2047 and the largest magnitudes along an axis, which stand for 2047."""
    largest = np.abs(x).max(axis, keepdims=True)
    return np.rint(x * LEVELS / np.where(largest == 0, 1.0, largest)), largest


def _product(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    found: NDArray[np.float64] = torch.bmm(
        torch.from_numpy(a), torch.from_numpy(np.ascontiguousarray(b))
    ).numpy()
    return found
