# SPDX-License-Identifier: Apache-2.0
"""Static integer ranges from data: percentile candidates, averages over batches.

Source: PTQ4ARVG (arXiv:2601.21238) and its released code: the range is the pair of percentiles
with the least squared error, and later batches enter a moving average with weight 0.1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

#: Upper percentiles that are tried; the lower one is 1 minus that.
PERCENTILES = (0.999, 0.9999, 0.99999)
#: Weight of a later batch in the moving average.
MOMENTUM = 0.1
#: What becomes of zero points of several batches: "rounded" to a code, or "averaged" as released,
#: where 0 need not be a value of the grid.
ZeroPoints = Literal["rounded", "averaged"]


def percentile_range(
    x_NM: Tensor, bits: int, percentiles: Sequence[float] = PERCENTILES
) -> tuple[Tensor, Tensor]:
    """Scale and zero point of each row, [N] each; x = (q - zero_point) * scale, q 0..2**bits-1.

    Unlike a minimum/maximum range this one need not contain 0. A row of one value gets a scale
    that represents it exactly.
    """
    levels = 2**bits - 1
    quantiles = [*percentiles, *(1 - p for p in percentiles)]
    values = x_NM.numpy()
    cuts = np.quantile(values, quantiles, axis=-1).astype(values.dtype)
    best_N = torch.full((len(x_NM),), torch.inf, dtype=x_NM.dtype)
    scale_N, zero_point_N = torch.ones_like(best_N), torch.zeros_like(best_N)
    for high, low in zip(*torch.from_numpy(cuts).chunk(2), strict=True):
        scale = (high - low) / levels
        fallback = torch.where(low == 0, 1.0, low.abs())
        scale = torch.where(scale > 0, scale, fallback)
        zero_point = -torch.round(low / scale)
        q = torch.round(x_NM / scale.unsqueeze(1)).add_(zero_point.unsqueeze(1)).clamp_(0, levels)
        q.sub_(zero_point.unsqueeze(1)).mul_(scale.unsqueeze(1)).sub_(x_NM)
        error_N = q.square_().mean(1)
        better = error_N < best_N
        best_N = torch.where(better, error_N, best_N)
        scale_N = torch.where(better, scale, scale_N)
        zero_point_N = torch.where(better, zero_point, zero_point_N)
    return scale_N, zero_point_N


def moving_average(batches: Sequence[Tensor]) -> Tensor:
    """The first batch, then 0.9 times the average so far plus 0.1 times each new batch."""
    value = batches[0]
    for batch in batches[1:]:
        value = MOMENTUM * batch + (1 - MOMENTUM) * value
    return value


def average_range(
    batches: Sequence[tuple[Tensor, Tensor]], zero_points: ZeroPoints = "rounded"
) -> tuple[Tensor, Tensor]:
    """Moving averages of (scale, zero point) over batches."""
    scale, zero_point = (moving_average(pair) for pair in zip(*batches, strict=True))
    return scale, torch.round(zero_point) if zero_points == "rounded" else zero_point
