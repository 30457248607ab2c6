# SPDX-License-Identifier: Apache-2.0
"""Ranges of each channel turned into one range by factors and shifts that cost nothing.

Source: RepQ-ViT (arXiv:2212.08254), section 3.3: the input of a linear after a norm gets step and
zero point of each channel; with their means s~ and z~ as targets, `x / r - b` with
`r = s / s~` and `b = low / r - low~` brings every channel into the one range, and the weight
takes `W r` with bias `+ W r b`. In VAR both fold into the AdaLN vectors.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor

from lutvar.quant.methods.calibration.fixed_range import (
    PERCENTILES,
    FixedRange,
    calibrated_range,
    calibration_rows,
    input_bits,
)
from lutvar.quant.methods.layers.layer import Block, Layer
from lutvar.quant.methods.layers.operations import scale_channels, shift_channels
from lutvar.quant.var.sites import SiteName

from .base import StepBase, register_step


def reparameterise(layer: Layer, channels: FixedRange) -> Tensor:
    """Replace ranges of each channel [I] by one range, a factor and a shift of each channel.

    Returns:
        r [I], the factors that the weight took.
    """
    target = FixedRange(
        channels.scale.mean().reshape(1), channels.zero_point.mean().reshape(1), channels.bits
    )
    ratio_I = channels.scale / target.scale
    scale_channels(layer, 1 / ratio_I)
    shift_channels(layer, target.low - channels.low / ratio_I)
    layer.activation = target
    return ratio_I


@register_step("repq")
class Repq(StepBase):
    """Scale reparameterisation; use it where the input comes from a norm.

    Attributes:
        percentiles: ends of the ranges to try.
        rows: calibration tokens that are looked at.
    """

    reads_data: ClassVar[bool] = True

    sites: tuple[SiteName, ...] | None = ("qkv", "fc1")
    percentiles: tuple[float, ...] = PERCENTILES
    rows: int = 4096

    def apply(self, block: Block) -> None:
        for layer in self.layers_in(block):
            bits = input_bits(layer, self.step)
            x_NI = calibration_rows(block, layer, self.step, self.rows)
            channels = calibrated_range(x_NI, bits, True, self.percentiles)
            # A channel that hardly moves must not blow up the others' weight columns.
            floor = float(channels.scale.mean()) * 1e-4
            channels = replace(channels, scale=channels.scale.clamp_min(floor))
            ratio_I = reparameterise(layer, channels)
            spread = float(ratio_I.max() / ratio_I.min().clamp_min(torch.finfo(torch.float32).tiny))
            layer.notes.append(f"repq: channel steps spread by {spread:.3g}")
