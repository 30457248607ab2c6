# SPDX-License-Identifier: Apache-2.0
"""What lies in device memory, byte by byte. All words are little-endian.

**Rows** of float32 or FP16 values are stored one after the other, 64-byte aligned, widths being
multiples of 128.

**Records** of q, k and v: 64 bytes for each token and head. Bytes 0..47 hold 64 codes of 6 bits
(bytes 0..31 for 4-bit formats), element 0 lowest; bytes 48..49 the FP16 scale; bytes 50..51 of a K
record repeat the scale of the same token's V; the rest is 0.

**Weight panels**: the weights of one group of 128 inputs for N outputs, N a multiple of 32. For
each block of 32 outputs: one beat of 32 FP16 scales; in the panel of group 0 then two beats of
32 float32 biases; then the codes ``[32][128]`` packed b bits each (32 beats at 4 bits, 48 at 6).
A layer is its panels in order of groups.

**qkv** outputs are permuted: first the C columns of q, then for each head its 64 columns of v and
its 64 columns of k, so that one block of 128 columns has what a K record needs.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lutvar.quant.formats import NumberFormat

from .accelerator import BEAT_BYTES, HEAD_DIM, WEIGHT_BLOCK
from .bits import pack_codes, unpack_codes
from .config import GROUP

RECORD_BYTES = 64
SCALE_BYTE, VALUE_SCALE_BYTE = 48, 50
BIAS_BEATS = WEIGHT_BLOCK * 4 // BEAT_BYTES


def block_beats(code_bits: int, first: bool) -> int:
    """Beats of a block of 32 outputs; ``first`` in the panel of group 0."""
    codes = WEIGHT_BLOCK * GROUP * code_bits // 8 // BEAT_BYTES
    return 1 + (BIAS_BEATS if first else 0) + codes


def panel_beats(outputs: int, code_bits: int, first: bool) -> int:
    """Beats of a panel of N outputs."""
    return outputs // WEIGHT_BLOCK * block_beats(code_bits, first)


def pack_panel(
    codes: NDArray[np.uint8],
    scales: NDArray[np.uint16],
    bias: NDArray[np.float32] | None,
    code_bits: int,
) -> bytes:
    """One panel: codes [N, 128], scales [N], bias [N] (group 0 only)."""
    blocks = codes.shape[0] // WEIGHT_BLOCK
    parts = [np.ascontiguousarray(scales, "<u2").reshape(blocks, -1).view(np.uint8)]
    if bias is not None:
        parts.append(np.ascontiguousarray(bias, "<f4").reshape(blocks, -1).view(np.uint8))
    parts.append(pack_codes(codes, code_bits).reshape(blocks, -1))
    return np.concatenate(parts, axis=1).tobytes()


def pack_records(
    codes: NDArray[np.uint8],
    scales: NDArray[np.uint16],
    fmt: NumberFormat,
    value_scales: NDArray[np.uint16] | None = None,
) -> NDArray[np.uint8]:
    """Records [..., 64] from codes [..., 64] and scales [...]."""
    records = np.zeros((*codes.shape[:-1], RECORD_BYTES), np.uint8)
    packed = pack_codes(codes, fmt.bits)
    records[..., : packed.shape[-1]] = packed
    scale = np.ascontiguousarray(scales, "<u2")[..., None].view(np.uint8)
    records[..., SCALE_BYTE : SCALE_BYTE + 2] = scale
    if value_scales is not None:
        scale = np.ascontiguousarray(value_scales, "<u2")[..., None].view(np.uint8)
        records[..., VALUE_SCALE_BYTE : VALUE_SCALE_BYTE + 2] = scale
    return records


def unpack_records(
    records: NDArray[np.uint8], fmt: NumberFormat
) -> tuple[NDArray[np.uint8], NDArray[np.uint16], NDArray[np.uint16]]:
    """Codes [..., 64], scales [...] and the V scales that K records repeat."""
    codes = unpack_codes(np.ascontiguousarray(records[..., : HEAD_DIM * fmt.bits // 8]), fmt.bits)
    at = [np.ascontiguousarray(records[..., b : b + 2]).view("<u2")[..., 0]
          for b in (SCALE_BYTE, VALUE_SCALE_BYTE)]  # fmt: skip
    return codes, at[0], at[1]


def qkv_order(width: int) -> NDArray[np.int64]:
    """Which output of the [3C] qkv layer (q, k, v) each column of the device's layer is."""
    heads = width // HEAD_DIM
    head = np.arange(heads)[:, None] * HEAD_DIM + np.arange(HEAD_DIM)
    pairs = np.concatenate([2 * width + head, width + head], axis=1)  # v, then k
    return np.concatenate([np.arange(width), pairs.reshape(-1)])
