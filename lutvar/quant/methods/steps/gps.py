# SPDX-License-Identifier: Apache-2.0
"""Gain-projected scaling: channel factors at which less activation error meets more weight error.

Source: PTQ4ARVG (arXiv:2601.21238). The paper derives the factor from sums of absolute products,
the released code from squared norms and the quantized weight; both are here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from lutvar.quant.methods.calibration.fixed_range import FixedRange
from lutvar.quant.methods.calibration.rows import row_batches
from lutvar.quant.methods.layers.layer import Block, Layer
from lutvar.quant.methods.layers.operations import scale_channels
from lutvar.quant.methods.quantizers.percentiles import (
    ZeroPoints,
    average_range,
    moving_average,
    percentile_range,
)
from lutvar.quant.var.sites import SiteName

from .base import StepBase, register_step

Formula = Literal["paper", "code"]


def widest_channel(x_TI: Tensor) -> int:
    """The channel with the largest range."""
    return int((x_TI.amax(0) - x_TI.amin(0)).argmax())


def gain_factors(
    x_TI: Tensor, rounded_TI: Tensor, weight_OI: Tensor, rounded_OI: Tensor, formula: Formula
) -> Tensor:
    """Factors s [I] for x / s and W s.

    Args:
        x_TI: inputs.
        rounded_TI: all channels quantized with the step of the widest one.
        weight_OI, rounded_OI: the weight before and after quantization.
        formula: "paper" or "code".

    Returns:
        Of the widest channel k, s_k = sqrt(range of x / range of W). Of the others, with dx and dW
        the errors, s_k times sqrt(sum |dW x| / sum |W dx|) or
        (|x|^2 |dW|^2 / (|dx|^2 |Q(W)|^2))**(1/4). 1 where either side is 0, since then one of the
        operands has nothing to gain (the released code gives 0 there if only the weight is exact).
    """
    k = widest_channel(x_TI)
    range_x = x_TI[:, k].amax() - x_TI[:, k].amin()
    range_w = weight_OI[:, k].amax() - weight_OI[:, k].amin()
    s_k = torch.sqrt(range_x / range_w) if range_w > 0 else torch.ones((), dtype=torch.float32)
    dx_TI, dw_OI = x_TI - rounded_TI, weight_OI - rounded_OI
    if formula == "paper":
        above_I = dw_OI.abs().sum(0) * x_TI.abs().sum(0)
        below_I = weight_OI.abs().sum(0) * dx_TI.abs().sum(0)
        power = 1 / 2
    else:
        above_I = x_TI.square().sum(0) * dw_OI.square().sum(0)
        below_I = dx_TI.square().sum(0) * rounded_OI.square().sum(0)
        power = 1 / 4
    usable = (above_I > 0) & (below_I > 0)
    ratio_I = torch.where(usable, above_I, 1.0) / torch.where(usable, below_I, 1.0)
    factors_I = torch.where(usable, s_k * ratio_I**power, 1.0)
    factors_I[k] = s_k
    return factors_I


@register_step("gps")
class GainProjectedScaling(StepBase):
    """x / s and W s with the factors of `gain_factors`, averaged over batches.

    Attributes:
        formula: "paper" or "code".
        skip_first: linears whose first scale step does not count (the sink token).
        batch: rows for each set of factors; later batches enter the moving average.
        zero_points: of several batches, "rounded" or "averaged".
    """

    reads_data: ClassVar[bool] = True

    sites: tuple[SiteName, ...] | None = ("qkv", "fc1", "head")
    formula: Formula = "code"
    skip_first: tuple[SiteName, ...] = ("qkv", "fc1")
    batch: int = Field(default=64, ge=1)
    zero_points: ZeroPoints = "rounded"

    def apply(self, block: Block) -> None:
        for layer in self.layers_in(block):
            scale_channels(layer, 1 / self._factors(block, layer))

    def _factors(self, block: Block, layer: Layer) -> Tensor:
        if layer.activation is None or layer.weight is None:
            raise ValueError(
                f"{layer.site}: gps weighs the errors of input and weight against each other; "
                "quantize both in the recipe or remove it from gps.sites"
            )
        bits = int(layer.activation.bits)
        skip = layer.site.name in self.skip_first
        batches = [x.flatten(0, 1) for x, _ in row_batches(block, layer, self.batch, skip)]
        ranges = [percentile_range(x_TI.T.contiguous(), bits) for x_TI in batches]
        scale_I, zero_point_I = average_range(ranges, self.zero_points)
        range_I = FixedRange(scale_I, zero_point_I, float(bits))
        return batch_factors(batches, range_I, layer, self.formula)


def batch_factors(
    batches: Sequence[Tensor], range_I: FixedRange, layer: Layer, formula: Formula
) -> Tensor:
    """Moving average over batches of `gain_factors`, [I].

    Args:
        batches: prepared inputs of the layer, [T, I] each.
        range_I: static range of each channel.
        layer: its weight is rounded to nearest.
        formula: "paper" or "code".
    """
    rounded_OI, factors = layer.nearest(), []
    for x_TI in batches:
        k = widest_channel(x_TI)
        widest = FixedRange(range_I.scale[k], range_I.zero_point[k], range_I.bits)
        factors.append(gain_factors(x_TI, widest(x_TI), layer.weight_OI, rounded_OI, formula))
    return moving_average(factors)
