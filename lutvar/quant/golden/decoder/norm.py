# SPDX-License-Identifier: Apache-2.0
"""Group norm in three pieces: sums while a map is written, vectors, NORM (contract, section 14)."""

from __future__ import annotations

import numpy as np

from lutvar.contract.decoder import STATISTICS_BITS, STATISTICS_FRACTION
from lutvar.contract.decoder_host import Sums, Vectors
from lutvar.quant.golden.pointwise import Float32, Half, float32, fp16, multiply, silu

_LARGEST = (1 << STATISTICS_BITS - 1) - 1


def sums(raw_BSSC: Float32) -> Sums:
    """Sums over all pixels of a raw map [B, S, S, C]."""
    B, C = len(raw_BSSC), raw_BSSC.shape[-1]
    scaled = np.rint(raw_BSSC.reshape(B, -1, C) * np.float32(1 << STATISTICS_FRACTION))
    n = np.clip(scaled, -_LARGEST, _LARGEST).astype(np.int64)
    return Sums(n.sum(1), (n * n).astype(np.uint64).sum(1))


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
