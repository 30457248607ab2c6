# SPDX-License-Identifier: Apache-2.0
"""Static integer ranges from data: percentile candidates, averages over batches, rows to look at.

Source: PTQ4ARVG (arXiv:2601.21238) and its released code: the range is the pair of percentiles
with the least squared error, and later batches enter a moving average with weight 0.1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from lutvar.quant.methods.errors import CalibrationError

if TYPE_CHECKING:
    from lutvar.quant.methods.layers.layer import Block, Layer

#: Upper percentiles that are tried; the lower one is 1 minus that.
PERCENTILES = (0.999, 0.9999, 0.99999)
#: Weight of a later batch in the moving average.
MOMENTUM = 0.1


def percentile_range(
    x_NM: Tensor, bits: int, percentiles: Sequence[float] = PERCENTILES
) -> tuple[Tensor, Tensor]:
    """Step and zero point of each row, [N] each; value = (code + zero) * step, codes 0..2**bits-1.

    Unlike a minimum/maximum range this one need not contain 0. A row of one value gets a step
    that represents it exactly.
    """
    levels = 2**bits - 1
    quantiles = [*percentiles, *(1 - p for p in percentiles)]
    cuts = np.quantile(x_NM.numpy(), quantiles, axis=-1).astype(np.float32)
    best_N = torch.full((len(x_NM),), torch.inf)
    step_N, zero_N = torch.ones_like(best_N), torch.zeros_like(best_N)
    for high, low in zip(*torch.from_numpy(cuts).chunk(2), strict=True):
        step = (high - low) / levels
        fallback = torch.where(low == 0, 1.0, low.abs())
        step = torch.where(step > 0, step, fallback)
        zero = torch.round(low / step)
        code = torch.round(x_NM / step.unsqueeze(1)).sub_(zero.unsqueeze(1)).clamp_(0, levels)
        code.add_(zero.unsqueeze(1)).mul_(step.unsqueeze(1)).sub_(x_NM)
        error_N = code.square_().mean(1)
        better = error_N < best_N
        best_N = torch.where(better, error_N, best_N)
        step_N, zero_N = torch.where(better, step, step_N), torch.where(better, zero, zero_N)
    return step_N, zero_N


def moving_average(batches: Sequence[Tensor]) -> Tensor:
    """The first batch, then 0.1 times the new one and 0.9 times what there is."""
    value = batches[0]
    for batch in batches[1:]:
        value = MOMENTUM * batch + (1 - MOMENTUM) * value
    return value


def row_batches(
    block: Block, layer: Layer, batch: int, skip_first: bool = False
) -> list[tuple[Tensor, tuple[tuple[int, int], ...]]]:
    """Prepared inputs of a layer in batches of rows, with the token range of each scale step.

    Conditional and unconditional rows alternate, so that each batch holds both. A rest smaller
    than a batch joins the last one.

    Args:
        block: with data.
        layer: one of its layers.
        batch: rows.
        skip_first: leave out the first scale step (the sink token) where there are further ones.

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
    half = (B + 1) // 2
    order = torch.stack((torch.arange(half), torch.arange(half) + half), 1).flatten()
    x_BLI = x_BLI[order[order < B]]
    scales = block.data.scales
    tokens = scales[-1][1]
    if tokens != L:
        # Word embeddings have no first scale, AdaLN inputs one vector for all.
        first = scales[0][1]
        scales = tuple((a - first, b - first) for a, b in scales[1:])
        if scales[-1][1] != L:
            scales = ((0, L),)
    elif skip_first and len(scales) > 1:
        first = scales[0][1]
        x_BLI = x_BLI[:, first:]
        scales = tuple((a - first, b - first) for a, b in scales[1:])
    starts = range(0, max(B - batch + 1, 1), batch)
    ends = [*starts[1:], B]
    return [(x_BLI[a:b], scales) for a, b in zip(starts, ends, strict=True)]
