# SPDX-License-Identifier: Apache-2.0
"""Inputs of a layer in batches of rows, as static ranges are found from them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from lutvar.quant.methods.errors import CalibrationError
from lutvar.quant.methods.layers.layer import Block, Layer


def row_order(rows: int, batch: int) -> list[Tensor]:
    """Indices of the rows of each batch: conditional and unconditional ones alternate.

    A rest smaller than a batch joins the last one.
    """
    half = (rows + 1) // 2
    order = torch.stack((torch.arange(half), torch.arange(half) + half), 1).flatten()
    order = order[order < rows]
    starts = range(0, max(rows - batch + 1, 1), batch)
    ends = [*starts[1:], rows]
    return [order[a:b] for a, b in zip(starts, ends, strict=True)]


def shared_ranges(
    kind: Literal["scale", "sink", "pass", "tensor"], regions: Sequence[int], sink: int
) -> tuple[int, ...]:
    """Which static range each step uses; the last entry serves all later ones.

    Args:
        kind: "scale" as `regions` say, "sink" the same for the sink tokens and one range for the
            rest, "pass" one for each step, "tensor" one.
        regions: of each step, see `BlockData`.
        sink: steps of the sink tokens.
    """
    count = len(regions)
    if kind == "tensor":
        pairs = (0,) * count
    elif kind == "pass":
        pairs = tuple(range(count))
    else:
        after = regions[min(sink, count - 1)] if kind == "sink" else regions[-1]
        pairs = tuple(min(region, after) for region in regions)
    last = max((i for i in range(count) if pairs[i] != pairs[-1]), default=-1)
    return pairs[: last + 2]


def row_batches(
    block: Block, layer: Layer, batch: int, skip_first: bool = False
) -> list[tuple[Tensor, tuple[tuple[int, int], ...]]]:
    """Prepared inputs of a layer in batches of rows, with the token range of each scale step.

    Each batch holds both halves (`row_order`).

    Args:
        block: with data.
        layer: one of its layers.
        batch: rows.
        skip_first: leave out the sink tokens (of VAR the first scale step) where others follow.

    Returns:
        (x [B, L, I], scales); a layer that sees one vector for each row has one range.

    Raises:
        CalibrationError: fewer than two samples, or inputs that are not finite.
    """
    assert block.data is not None
    x_BLI = layer.prepared(block.data.inputs[layer.site.name])
    B, L = x_BLI.shape[:2]
    if B < 4:  # both halves of two samples
        raise CalibrationError(
            f"{layer.site}: static ranges of {B // 2} calibration sample(s) say nothing about "
            "others; set calibration.samples to 2 or more, better one for each class"
        )
    if not bool(x_BLI.isfinite().all()):
        raise CalibrationError(f"{layer.site}: input is not finite after the steps before this one")
    scales = block.data.scales
    tokens = scales[-1][1]
    if tokens != L:
        # Word embeddings have no first scale, AdaLN inputs one vector for all.
        first = scales[0][1]
        scales = tuple((a - first, b - first) for a, b in scales[1:])
        if scales[-1][1] != L:
            scales = ((0, L),)
    elif skip_first and (first := block.data.sink_tokens):
        x_BLI = x_BLI[:, first:]
        scales = tuple((a - first, b - first) for a, b in scales[block.data.sink :])
    return [(x_BLI[rows], scales) for rows in row_order(B, batch)]
