# SPDX-License-Identifier: Apache-2.0
"""What lies in device memory, byte by byte. All words are little-endian.

**Rows** of float32 or FP16 values are stored one after the other, 64-byte aligned, widths being
multiples of 128.

**Records** of q, k and v: 64 bytes for each token and head. Bytes 0..47 hold 64 codes of 6 bits
(bytes 0..31 for 4-bit formats), element 0 lowest; bytes 48..49 the FP16 scale; bytes 50..51 of a K
record repeat the scale of the same token's V; the rest is 0.

**Weight panels**: the weights of one group of 128 inputs for N outputs, in blocks of 32 outputs. A
block is one beat of 32 FP16 scales, two beats of 16 float32 biases each (in the first panel of a
slice only), and the codes `[32][128]` packed b bits each (32 beats at 4 bits, 48 at 6). A layer
is its slices of inputs, each the panels of its groups in order; biases of later slices are not
used.

A build with one weight port reads a block in this order: scales, first biases, codes of 16 outputs,
second biases, codes of the other 16. With two weight ports, P = 2, a panel is two halves of equal
size, one after the other in memory, one for each port; N is a multiple of 64. Port p has, in the
same order, the codes of inputs `64 p .. 64 p + 63` of every output; scales and second biases of
the blocks b with `b mod 2 = p`; first biases of the other blocks. So before 16 outputs each port
has at most one beat that is not codes.

**qkv** outputs are permuted: first the C columns of q, then for each head its 64 columns of v and
its 64 columns of k, so that one block of 128 columns has what a K record needs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .accelerator import BEAT_BYTES, HEAD_DIM, WEIGHT_BLOCK
from .bits import pack_codes, unpack_codes
from .formats import NumberFormat
from .quant_preset import GROUP

RECORD_BYTES = 64
SCALE_BYTE, VALUE_SCALE_BYTE = 48, 50
BIAS_BEATS = WEIGHT_BLOCK * 4 // BEAT_BYTES


#: Before each half of a block: what comes, and on which port: block number + offset, mod ports.
#: "bias" is the half's own beat of biases, in the first panel of a slice.
SIDE_BEATS: tuple[tuple[tuple[str, int], ...], ...] = (
    (("scales", 0), ("bias", 1)),
    (("bias", 0),),
)
HALVES = len(SIDE_BEATS)
HALF_BLOCK = WEIGHT_BLOCK // HALVES  #: outputs


def block_beats(code_bits: int, first: bool) -> int:
    """Beats of a block of 32 outputs, all ports together; `first`: in a slice's first panel."""
    codes = WEIGHT_BLOCK * GROUP * code_bits // 8 // BEAT_BYTES
    return 1 + (BIAS_BEATS if first else 0) + codes


def panel_beats(outputs: int, code_bits: int, first: bool) -> int:
    """Beats of a panel of N outputs, all ports together."""
    return outputs // WEIGHT_BLOCK * block_beats(code_bits, first)


def block_cycles(code_bits: int, first: bool, ports: int) -> int:
    """Cycles in which a block of 32 outputs comes through the weight ports and is multiplied."""
    return max(WEIGHT_BLOCK, -(-block_beats(code_bits, first) // ports))


@dataclass(frozen=True)
class PanelPart:
    """Consecutive beats of a port: `what` is "scales", "bias" or "codes".

    Attributes:
        block: in a period of as many blocks as ports.
        half: of the block.
        beats: their number.
    """

    what: str
    block: int
    half: int
    beats: int


def panel_parts(port: int, ports: int, code_bits: int, first: bool) -> list[PanelPart]:
    """What a port reads for one period of a panel: as many blocks as there are ports."""
    codes = HALF_BLOCK * GROUP // ports * code_bits // 8 // BEAT_BYTES
    parts = []
    for block in range(ports):
        for half, sides in enumerate(SIDE_BEATS):
            parts += [
                PanelPart(what, block, half, 1)
                for what, offset in sides
                if (block + offset) % ports == port and (first or what != "bias")
            ]
            parts.append(PanelPart("codes", block, half, codes))
    return parts


def pack_panel(
    codes: NDArray[np.uint8],
    scales: NDArray[np.uint16],
    bias: NDArray[np.float32] | None,
    code_bits: int,
    ports: int = 1,
) -> bytes:
    """One panel: codes [N, 128], scales [N], bias [N] (first panel of a slice).

    N is a multiple of 32 * ports.
    """
    raw: dict[str, NDArray[Any]] = {}
    raw["scales"] = np.ascontiguousarray(scales, "<u2").reshape(-1, ports, 1, WEIGHT_BLOCK)
    if bias is not None:
        raw["bias"] = np.ascontiguousarray(bias, "<f4").reshape(-1, ports, HALVES, HALF_BLOCK)
    lanes = codes.reshape(-1, ports, HALVES, HALF_BLOCK, ports, GROUP // ports)
    panel = []
    for port in range(ports):
        raw["codes"] = pack_codes(np.ascontiguousarray(lanes[:, :, :, :, port]), code_bits)
        parts = [
            np.ascontiguousarray(raw[p.what][:, p.block, p.half]).reshape(len(lanes), -1)
            for p in panel_parts(port, ports, code_bits, bias is not None)
        ]
        panel.append(np.concatenate([part.view(np.uint8) for part in parts], axis=1).tobytes())
    return b"".join(panel)


def unpack_panel(
    panel: NDArray[np.uint8], outputs: int, code_bits: int, first: bool, ports: int = 1
) -> tuple[NDArray[np.uint8], NDArray[np.uint16], NDArray[np.float32] | None]:
    """The inverse of `pack_panel`: codes [N, 128], scales [N], bias [N]."""
    periods = outputs // (WEIGHT_BLOCK * ports)
    codes = np.empty((periods, ports, HALVES, HALF_BLOCK, ports, GROUP // ports), np.uint8)
    scales = np.empty((periods, ports, WEIGHT_BLOCK), np.uint16)
    bias = np.empty((periods, ports, HALVES, HALF_BLOCK), np.float32)
    for port, lane in enumerate(
        np.ascontiguousarray(panel).reshape(ports, periods, -1, BEAT_BYTES)
    ):
        at = 0
        for p in panel_parts(port, ports, code_bits, first):
            raw = np.ascontiguousarray(lane[:, at : at + p.beats]).reshape(periods, -1)
            at += p.beats
            if p.what == "scales":
                scales[:, p.block] = raw.view("<u2")
            elif p.what == "bias":
                bias[:, p.block, p.half] = raw.view("<f4")
            else:
                lanes = raw.reshape(periods, HALF_BLOCK, -1)
                codes[:, p.block, p.half, :, port] = unpack_codes(lanes, code_bits)
    return codes.reshape(outputs, GROUP), scales.reshape(-1), bias.reshape(-1) if first else None


def block_at(beat: int, outputs: int, code_bits: int, first: bool, ports: int = 1) -> int:
    """The block of 32 outputs that a beat of a panel belongs to."""
    port, beat = divmod(beat, panel_beats(outputs, code_bits, first) // ports)
    period, beat = divmod(beat, block_beats(code_bits, first))
    for part in panel_parts(port, ports, code_bits, first):
        if beat < part.beats:
            return period * ports + part.block
        beat -= part.beats
    raise ValueError(f"a panel of {outputs} outputs has no such beat")


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
