# SPDX-License-Identifier: Apache-2.0
"""One fixed range for the input of a linear instead of a dynamic one.

Source: static per-tensor activation quantization as in RepQ-ViT (arXiv:2212.08254), which keeps
it for every linear that does not follow a norm.
"""

from __future__ import annotations

from typing import ClassVar

from lutvar.quant.methods.calibration.fixed_range import (
    PERCENTILES,
    calibrated_range,
    calibration_rows,
    input_bits,
)
from lutvar.quant.methods.layers.layer import Block

from .base import StepBase, register_step


@register_step("static-range")
class StaticRange(StepBase):
    """Replaces the input quantizer by a `FixedRange` of the same bits.

    Attributes:
        by_channel: a range for each channel (what RepQ-ViT reparameterises away).
        percentiles: ends of the range to try.
        rows: calibration tokens that are looked at.
    """

    reads_data: ClassVar[bool] = True

    by_channel: bool = False
    percentiles: tuple[float, ...] = PERCENTILES
    rows: int = 4096

    def apply(self, block: Block) -> None:
        for layer in self.layers_in(block):
            bits = input_bits(layer, self.step)
            x_NI = calibration_rows(block, layer, self.step, self.rows)
            layer.activation = calibrated_range(x_NI, bits, self.by_channel, self.percentiles)
