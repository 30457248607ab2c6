# SPDX-License-Identifier: Apache-2.0
"""Codes of b bits as a little-endian bit string, element 0 in the least significant bits."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

#: Codes that are packed together: eight codes of b bits are exactly b bytes for every b.
_CHUNK = 8


def pack_codes(codes: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Codes [..., n] to packed bytes [..., n * bits / 8]; n must be a multiple of 8."""
    if codes.size and int(codes.max()) >> bits:
        raise ValueError(f"code {int(codes.max())} does not fit {bits} bits")
    chunks = codes.reshape(*codes.shape[:-1], -1, _CHUNK)
    words = np.zeros(chunks.shape[:-1], dtype="<u8")
    for i in range(_CHUNK):
        words |= chunks[..., i].astype("<u8") << np.uint64(i * bits)
    raw = words[..., None].view(np.uint8)[..., :bits]
    return raw.reshape(*codes.shape[:-1], codes.shape[-1] * bits // 8)


def unpack_codes(packed: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """The inverse of `pack_codes`: bytes [..., n * bits / 8] to codes [..., n]."""
    raw = packed.reshape(*packed.shape[:-1], -1, bits)
    padded = np.zeros((*raw.shape[:-1], 8), dtype=np.uint8)
    padded[..., :bits] = raw
    words = padded.view("<u8")[..., 0]
    mask = np.uint64((1 << bits) - 1)
    codes = np.stack([(words >> np.uint64(i * bits)) & mask for i in range(_CHUNK)], axis=-1)
    return codes.astype(np.uint8).reshape(*packed.shape[:-1], -1)
