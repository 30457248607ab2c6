# SPDX-License-Identifier: Apache-2.0
"""Static ranges for groups of channels or of tokens that have similar ranges.

Source: DGQ (arXiv:2501.04304): outliers of an input lie in some of its channels or in some of its
pixels; ranges are static and belong to groups along that dimension of the two in which they differ
more. A pixel is a token at its place in the sequence of all scales. The groups here are those with
the smallest noise: a uniform quantizer's is proportional to the square of its range, so the sorted
ranges are cut where the sum over members of their group's squared range is smallest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from lutvar.quant.methods.calibration.fixed_range import FixedRange, input_bits
from lutvar.quant.methods.calibration.rows import row_batches
from lutvar.quant.methods.layers.layer import Block, Layer

from .base import StepBase, register_step


@dataclass(frozen=True)
class TokenRanges:
    """A static range for each token of the sequence of all scales.

    Attributes:
        scale_L: difference of neighbouring values.
        zero_point_L: code of 0.
        starts: first token of each scale step.
        bits: of a code, as a float for reports.
    """

    scale_L: Tensor
    zero_point_L: Tensor
    starts: tuple[int, ...]
    bits: float

    def __call__(self, x: Tensor, scale_index: int) -> Tensor:
        """Fake-quantize the tokens [..., l, I] of one scale step."""
        first = self.starts[scale_index]
        own = slice(first, first + x.shape[-2])
        scale_l1, zero_point_l1 = (
            part[own].unsqueeze(-1) for part in (self.scale_L, self.zero_point_L)
        )
        return FixedRange(scale_l1, zero_point_l1, self.bits)(x)


def cut(ranges_N: Tensor, groups: int) -> tuple[Tensor, float]:
    """Group of each entry, and the mean over entries of their group's squared largest range.

    The best of all ways to cut the sorted entries into at most `groups` runs.
    """
    order_N = ranges_N.argsort()
    square_N = ranges_N[order_N].double().square()
    count = len(square_N)
    # cost[e]: of the first e entries in the groups so far; a group ends with its largest range.
    cost = torch.full((count + 1,), torch.inf, dtype=torch.float64)
    cost[0] = 0.0
    ends: list[Tensor] = []
    index = torch.arange(count + 1, dtype=torch.float64)
    for _ in range(min(groups, count)):
        sizes = index.unsqueeze(1) - index  # [end, start]
        whole = cost + sizes * torch.cat((square_N.new_zeros(1), square_N)).unsqueeze(1)
        whole = torch.where(sizes > 0, whole, torch.inf)
        whole[0, 0] = 0.0
        cost, starts = whole.min(1)
        ends.append(starts)
    group_N = torch.empty(count, dtype=torch.long)
    end = count
    for number in range(len(ends) - 1, -1, -1):
        start = int(ends[number][end])
        group_N[order_N[start:end]] = number
        end = start
    return group_N, float(cost[count]) / count


@register_step("distribution-groups")
class DistributionGroups(StepBase):
    """Replaces the input quantizer by static ranges of the same bits for groups.

    Attributes:
        groups: how many, of channels or of tokens.
    """

    reads_data: ClassVar[bool] = True

    groups: int = Field(default=8, ge=1)

    def apply(self, block: Block) -> None:
        for layer in self.layers_in(block):
            bits = input_bits(layer, self.step)
            ((x_BLI, scales),) = row_batches(block, layer, 1 << 30)
            by_channel = _extremes(x_BLI.flatten(0, 1))
            by_token = _extremes(x_BLI.transpose(0, 1).flatten(1).mT)
            groups_I, channel_noise = cut(by_channel[1] - by_channel[0], self.groups)
            groups_L, token_noise = cut(by_token[1] - by_token[0], self.groups)
            if token_noise < channel_noise and len(scales) > 1:
                found = _shared(*by_token, groups_L, bits)
                starts = tuple(a for a, _ in scales)
                layer.activation = TokenRanges(found.scale, found.zero_point, starts, float(bits))
            else:
                layer.activation = _shared(*by_channel, groups_I, bits)
            self._note(layer, channel_noise, token_noise)

    def _note(self, layer: Layer, channel_noise: float, token_noise: float) -> None:
        kind = "tokens" if isinstance(layer.activation, TokenRanges) else "channels"
        layer.notes.append(
            f"{self.groups} groups of {kind}; mean squared range of channels {channel_noise:.3g}, "
            f"of tokens {token_noise:.3g}"
        )


def _extremes(x_NM: Tensor) -> tuple[Tensor, Tensor]:
    """Smallest and largest value of each column, 0 included."""
    low_M, high_M = torch.aminmax(x_NM, dim=0)
    return low_M.clamp_max(0), high_M.clamp_min(0)


def _shared(low_N: Tensor, high_N: Tensor, group_N: Tensor, bits: int) -> FixedRange:
    """For each entry the range of its group."""
    count = int(group_N.max()) + 1
    low = low_N.new_zeros(count).scatter_reduce(0, group_N, low_N, "amin")
    high = low_N.new_zeros(count).scatter_reduce(0, group_N, high_N, "amax")
    return FixedRange.between(low[group_N], high[group_N], bits)
