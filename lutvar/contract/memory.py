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
used. Weights in two terms are two such sets, one behind the other; biases of the second are not
used.

A block is stored in this order: scales, first biases, codes of 16 outputs, second biases, codes of
the other 16. N is a multiple of 128; 128 consecutive outputs, four blocks, are a *stripe*. With P
weight ports stripe b of a panel lies on port `b mod P`: a panel is the share of port 0, that of
port 1 and so on, one after the other in memory, each its stripes in order. Shares differ by at most
a stripe, and may be empty.

**qkv** outputs are permuted: first the C columns of q, then for each head its 64 columns of v and
its 64 columns of k, so that one block of 128 columns has what a K record needs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .accelerator import BEAT_BYTES, HEAD_DIM, STRIPE, WEIGHT_BLOCK
from .bits import pack_codes, unpack_codes
from .formats import NumberFormat
from .quant_preset import GROUP

RECORD_BYTES = 64
SCALE_BYTE, VALUE_SCALE_BYTE = 48, 50
BIAS_BEATS = WEIGHT_BLOCK * 4 // BEAT_BYTES


#: What comes before each half of a block; "bias" is the half's own beat of biases, in the first
#: panel of a slice.
SIDE_BEATS: tuple[tuple[str, ...], ...] = (("scales", "bias"), ("bias",))
HALVES = len(SIDE_BEATS)
HALF_BLOCK = WEIGHT_BLOCK // HALVES  #: outputs


def block_beats(code_bits: int, first: bool) -> int:
    """Beats of a block of 32 outputs; `first`: in a slice's first panel."""
    codes = WEIGHT_BLOCK * GROUP * code_bits // 8 // BEAT_BYTES
    return 1 + (BIAS_BEATS if first else 0) + codes


def panel_beats(outputs: int, code_bits: int, first: bool) -> int:
    """Beats of a panel of N outputs, all ports together."""
    return outputs // WEIGHT_BLOCK * block_beats(code_bits, first)


@dataclass(frozen=True)
class Shares:
    """How a panel divides over the weight ports, as in the fields of FETCH.

    Attributes:
        beats: on each of the first `full` ports.
        full: 1 or more.
        rest: on each of the other ports; 0 if there is none.
    """

    beats: int
    full: int
    rest: int


def panel_shares(outputs: int, code_bits: int, first: bool, ports: int) -> Shares:
    """Shares of the ports in a panel of N outputs, N a multiple of 128."""
    stripe = panel_beats(STRIPE, code_bits, first)
    even, more = divmod(outputs // STRIPE, ports)
    if more:
        return Shares((even + 1) * stripe, more, even * stripe)
    return Shares(even * stripe, ports, 0)


def port_beats(beats: int, full: int, rest: int, ports: int) -> tuple[int, ...]:
    """Beats of a panel on each port, from the fields of FETCH."""
    return tuple(beats if port < full else rest for port in range(ports))


def block_cycles(code_bits: int, first: bool, ports: int, sections: int = 1) -> int:
    """Cycles in which each section multiplies a block of 32 outputs, on average over many.

    Each port brings a beat a cycle, each section takes a vector a cycle.
    """
    return max(WEIGHT_BLOCK, -(-block_beats(code_bits, first) * sections // ports))


@dataclass(frozen=True)
class PanelPart:
    """Consecutive beats of a block: `what` is "scales", "bias" or "codes".

    Attributes:
        half: of the block.
        beats: their number.
    """

    what: str
    half: int
    beats: int


def panel_parts(code_bits: int, first: bool) -> list[PanelPart]:
    """The parts of a block, in order."""
    codes = HALF_BLOCK * GROUP * code_bits // 8 // BEAT_BYTES
    parts = []
    for half, sides in enumerate(SIDE_BEATS):
        parts += [PanelPart(what, half, 1) for what in sides if first or what != "bias"]
        parts.append(PanelPart("codes", half, codes))
    return parts


def stored_outputs(outputs: int, ports: int) -> NDArray[np.int64]:
    """Outputs of a panel in the order in which they are stored, [N]."""
    stripes = np.arange(outputs, dtype=np.int64).reshape(-1, STRIPE)
    return np.concatenate([stripes[port::ports].reshape(-1) for port in range(ports)])


def pack_panel(
    codes: NDArray[np.uint8],
    scales: NDArray[np.uint16],
    bias: NDArray[np.float32] | None,
    code_bits: int,
    ports: int = 1,
) -> bytes:
    """One panel: codes [N, 128], scales [N], bias [N] (first panel of a slice).

    N is a multiple of 128.
    """
    order = stored_outputs(len(codes), ports)
    raw: dict[str, NDArray[Any]] = {}
    raw["codes"] = pack_codes(codes[order].reshape(-1, HALVES, HALF_BLOCK, GROUP), code_bits)
    scales = np.ascontiguousarray(scales, "<u2")[order]
    raw["scales"] = scales.reshape(-1, 1, WEIGHT_BLOCK)
    if bias is not None:
        raw["bias"] = np.ascontiguousarray(bias, "<f4")[order].reshape(-1, HALVES, HALF_BLOCK)
    blocks = len(codes) // WEIGHT_BLOCK
    parts = [
        np.ascontiguousarray(raw[p.what][:, p.half]).reshape(blocks, -1).view(np.uint8)
        for p in panel_parts(code_bits, bias is not None)
    ]
    return np.concatenate(parts, axis=1).tobytes()


def unpack_panel(
    panel: NDArray[np.uint8], outputs: int, code_bits: int, first: bool, ports: int = 1
) -> tuple[NDArray[np.uint8], NDArray[np.uint16], NDArray[np.float32] | None]:
    """The inverse of `pack_panel`: codes [N, 128], scales [N], bias [N]."""
    blocks = outputs // WEIGHT_BLOCK
    order = stored_outputs(outputs, ports)
    codes = np.empty((blocks, HALVES, HALF_BLOCK, GROUP), np.uint8)
    scales = np.empty((blocks, WEIGHT_BLOCK), np.uint16)
    bias = np.empty((blocks, HALVES, HALF_BLOCK), np.float32)
    beats = np.ascontiguousarray(panel).reshape(blocks, -1, BEAT_BYTES)
    at = 0
    for p in panel_parts(code_bits, first):
        raw = np.ascontiguousarray(beats[:, at : at + p.beats]).reshape(blocks, -1)
        at += p.beats
        if p.what == "scales":
            scales[:] = raw.view("<u2")
        elif p.what == "bias":
            bias[:, p.half] = raw.view("<f4")
        else:
            codes[:, p.half] = unpack_codes(raw.reshape(blocks, HALF_BLOCK, -1), code_bits)
    place = np.argsort(order)
    return (
        codes.reshape(outputs, GROUP)[place],
        scales.reshape(-1)[place],
        bias.reshape(-1)[place] if first else None,
    )


def block_at(beat: int, outputs: int, code_bits: int, first: bool, ports: int = 1) -> int:
    """The block of 32 outputs that a beat of a panel belongs to."""
    block = beat // block_beats(code_bits, first)
    if not 0 <= block < outputs // WEIGHT_BLOCK:
        raise ValueError(f"a panel of {outputs} outputs has no such beat")
    return int(stored_outputs(outputs, ports)[block * WEIGHT_BLOCK]) // WEIGHT_BLOCK


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
