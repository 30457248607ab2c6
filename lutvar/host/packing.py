# SPDX-License-Identifier: Apache-2.0
"""Tensors to stream bytes and back, beat by beat as `lutvar.contract.layout` says.

Everything here is numpy on whole arrays. Elements are little-endian, element 0 in the least
significant bits; each section is padded with zeros to a whole number of beats. Shapes: R rows,
K inputs, G = K / 128 groups, O outputs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lutvar.contract.bits import pack_codes, unpack_codes
from lutvar.contract.config import GROUP
from lutvar.contract.layout import StreamLayout

from .errors import BadInput
from .transport import Bytes

#: Largest finite FP16.
_FP16_MAX = np.float32(65504.0)


def to_fp16(rows: ArrayLike) -> NDArray[np.float16]:
    """Round float32 to FP16, nearest even, saturated to +-65504.

    Raises:
        BadInput: an infinity or NaN; the message gives its index.
    """
    x = np.asarray(rows)
    if x.dtype not in (np.float16, np.float32):
        raise BadInput(
            f"rows are {x.dtype}; float32 or float16 is needed (convert before the call)"
        )
    finite = np.isfinite(x)
    if not finite.all():
        where = tuple(int(i) for i in np.argwhere(~finite)[0])
        raise BadInput(f"activation {where} is {x[where]}; only finite values can be quantized")
    return np.clip(x, -_FP16_MAX, _FP16_MAX).astype(np.float16)


@dataclass(frozen=True)
class _TileView:
    """The sections of a weight stream as writable views: one array for each kind of section."""

    bias: Bytes  #: [tiles, N * 4]
    scales: Bytes  #: [tiles, G, N * 2]
    codes: Bytes  #: [tiles, G, N * 128 * b / 8]

    @classmethod
    def of(cls, stream: Bytes, layout: StreamLayout, groups: int) -> _TileView:
        size, n = layout.stream_bytes, layout.outputs
        tiles = stream.reshape(-1, layout.tile_beats(groups) * size)
        body = tiles[:, layout.bias_beats * size :]
        body = body.reshape(
            len(tiles), groups, (layout.scale_beats + layout.weight_code_beats) * size
        )
        first = layout.scale_beats * size
        return cls(
            tiles[:, : n * 4],
            body[..., : n * 2],
            body[..., first : first + n * GROUP * layout.code_bits // 8],
        )


def pack_weights(
    codes: NDArray[np.uint8],
    scales: NDArray[np.uint16],
    bias: NDArray[np.float32],
    layout: StreamLayout,
) -> Bytes:
    """One layer's ``s_axis_wgt`` packet.

    Args:
        codes: weight codes [O, K].
        scales: FP16 patterns [O, G].
        bias: float32 [O].
        layout: stream geometry; outputs are padded with zero weights to a multiple of N.

    Returns:
        uint8 [layout.wgt_beats(G, ceil(O / N)) * stream_bytes].

    Raises:
        ValueError: shapes that do not belong together, or a code wider than the layout's.
    """
    outputs, inputs = codes.shape
    groups, n = inputs // GROUP, layout.outputs
    if inputs % GROUP or scales.shape != (outputs, groups) or bias.shape != (outputs,):
        raise ValueError(
            f"codes {codes.shape}, scales {scales.shape} and bias {bias.shape} do not fit: "
            f"[O, K], [O, K / {GROUP}] and [O] are needed, K a multiple of {GROUP}"
        )
    tiles = -(-outputs // n)
    pad = tiles * n - outputs
    codes = np.pad(codes, ((0, pad), (0, 0))).reshape(tiles, n, groups, GROUP)
    scales = np.pad(scales, ((0, pad), (0, 0))).reshape(tiles, n, groups)
    bias = np.pad(bias, (0, pad)).reshape(tiles, n)

    stream = np.zeros(layout.wgt_beats(groups, tiles) * layout.stream_bytes, dtype=np.uint8)
    view = _TileView.of(stream, layout, groups)
    view.bias[...] = np.ascontiguousarray(bias, dtype="<f4").view(np.uint8)
    view.scales[...] = np.ascontiguousarray(scales.transpose(0, 2, 1), dtype="<u2").view(np.uint8)
    packed = pack_codes(codes, layout.code_bits)  # [tiles, N, G, 128 * b / 8]
    view.codes[...] = packed.transpose(0, 2, 1, 3).reshape(tiles, groups, -1)
    return stream


def unpack_weights(
    stream: Bytes, layout: StreamLayout, outputs: int, groups: int
) -> tuple[NDArray[np.uint8], NDArray[np.uint16], NDArray[np.float32]]:
    """The inverse of `pack_weights`: codes [O, K], scale patterns [O, G], bias [O]."""
    n = layout.outputs
    view = _TileView.of(stream, layout, groups)
    tiles = len(view.bias)
    bias = np.ascontiguousarray(view.bias).view("<f4").reshape(tiles * n)
    scales = np.ascontiguousarray(view.scales).view("<u2").transpose(0, 2, 1).reshape(-1, groups)
    packed = view.codes.reshape(tiles, groups, n, -1).transpose(0, 2, 1, 3)
    codes = unpack_codes(np.ascontiguousarray(packed), layout.code_bits).reshape(tiles * n, -1)
    return codes[:outputs], scales[:outputs].astype(np.uint16), bias[:outputs].astype(np.float32)


def padded_rows(rows: int, layout: StreamLayout) -> int:
    """Rows of a job that holds ``rows`` rows: the next multiple of T."""
    return -(-rows // layout.token_rows) * layout.token_rows


def pack_activations(rows: NDArray[np.float16], layout: StreamLayout) -> Bytes:
    """Rows [R, K] to one ``s_axis_act`` packet; rows are padded with zeros to a multiple of T."""
    count, inputs = rows.shape
    groups = inputs // GROUP
    section = layout.act_group_beats * layout.stream_bytes
    stream = np.zeros((padded_rows(count, layout), groups, section), dtype=np.uint8)
    data = np.ascontiguousarray(rows, dtype="<f2").view(np.uint8)
    stream[:count, :, : GROUP * 2] = data.reshape(count, groups, GROUP * 2)
    return stream.reshape(-1)


def unpack_results(
    stream: Bytes, layout: StreamLayout, rows: int, outputs: int
) -> NDArray[np.float32]:
    """One ``m_axis_out`` packet of a multiplication to results [rows, outputs], padding removed."""
    t, n = layout.token_rows, layout.outputs
    vectors, tiles = padded_rows(rows, layout) // t, -(-outputs // n)
    beats = stream.reshape(tiles, vectors, layout.result_beats * layout.stream_bytes)
    results = (
        np.ascontiguousarray(beats[..., : t * n * 4]).view("<f4").reshape(tiles, vectors, t, n)
    )
    full = results.transpose(1, 2, 0, 3).reshape(vectors * t, tiles * n)
    return np.ascontiguousarray(full[:rows, :outputs], dtype=np.float32)


@dataclass(frozen=True)
class DumpedCodes:
    """What the device made of activations: the quantizer's output.

    Attributes:
        codes: uint8 [R, K].
        scale, scale_neg: FP16 patterns, uint16 [R, G]; ``scale_neg`` counts for dual formats only.
    """

    codes: NDArray[np.uint8]
    scale: NDArray[np.uint16]
    scale_neg: NDArray[np.uint16]


def unpack_dump(stream: Bytes, layout: StreamLayout, rows: int, groups: int) -> DumpedCodes:
    """One ``m_axis_out`` packet of a dump job, padding removed."""
    t, size = layout.token_rows, layout.stream_bytes
    vectors = padded_rows(rows, layout) // t
    first = layout.dump_scale_beats * size
    beats = stream.reshape(vectors, groups, first + layout.dump_code_beats * size)
    pairs = np.ascontiguousarray(beats[..., : t * 4]).view("<u2").reshape(vectors, groups, t, 2)
    pairs = pairs.transpose(0, 2, 1, 3).reshape(vectors * t, groups, 2)[:rows]
    packed = beats[..., first : first + t * GROUP * layout.code_bits // 8]
    codes = unpack_codes(np.ascontiguousarray(packed), layout.code_bits)
    codes = codes.reshape(vectors, groups, t, GROUP).transpose(0, 2, 1, 3)
    return DumpedCodes(
        np.ascontiguousarray(codes.reshape(vectors * t, groups * GROUP)[:rows]),
        pairs[..., 0].astype(np.uint16),
        pairs[..., 1].astype(np.uint16),
    )
