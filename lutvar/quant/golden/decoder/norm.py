# SPDX-License-Identifier: Apache-2.0
"""Group norm in three pieces: sums while a map is written, vectors, NORM (contract, section 14)."""

from __future__ import annotations

import numpy as np

from lutvar.contract import column_sums
from lutvar.contract.decoder_host import Sums, Vectors
from lutvar.quant.golden.pointwise import Float32, Half, normalise


def sums(raw_BSSC: Float32) -> Sums:
    """Sums over all pixels of a raw map [B, S, S, C]."""
    B, C = len(raw_BSSC), raw_BSSC.shape[-1]
    n = column_sums.integers(raw_BSSC.reshape(B, -1, C))
    return Sums(n.sum(1), (n * n).astype(np.uint64).sum(1))


def norm(raw_BSSC: Float32, found: Vectors | None, gate: bool) -> Half:
    """NORM of a raw map.

    Args:
        raw_BSSC: raw map.
        found: scale and shift; None: 1 and 0.
        gate: SiLU follows.
    """
    if found is None:
        return normalise(raw_BSSC, gate=gate)
    scale, shift = (x[:, None, None, :] for x in found)
    return normalise(raw_BSSC, scale, shift, gate=gate)
