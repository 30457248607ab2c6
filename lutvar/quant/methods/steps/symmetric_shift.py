# SPDX-License-Identifier: Apache-2.0
"""Channel shifts that centre the range of each input channel on zero.

Source: PTQ4ARVG (arXiv:2601.21238), released code: before the channel factors are found, the static
range of each channel is moved so that its zero point is in the middle of the codes. The shift goes
into AdaLN's shift and the next bias.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field
from torch import Tensor

from lutvar.quant.methods.calibration.rows import row_batches
from lutvar.quant.methods.layers.layer import Block, Layer
from lutvar.quant.methods.layers.operations import shift_channels
from lutvar.quant.methods.quantizers.percentiles import (
    ZeroPoints,
    average_range,
    percentile_range,
)
from lutvar.quant.var.sites import SiteName

from .base import StepBase, register_step


@register_step("symmetric-shift")
class SymmetricShift(StepBase):
    """x - m with m the middle of each channel's range, and b + W m.

    Attributes:
        skip_first: linears whose first scale step does not count (the sink token).
        batch: rows for each range; later batches enter the moving average.
        bits: codes of the range; default those of the input's quantizer.
        zero_points: of several batches, "rounded" or "averaged".
    """

    reads_data: ClassVar[bool] = True

    sites: tuple[SiteName, ...] | None = ("qkv", "fc1", "head")
    skip_first: tuple[SiteName, ...] = ("qkv", "fc1")
    batch: int = Field(default=64, ge=1)
    bits: int | None = None
    zero_points: ZeroPoints = "rounded"

    def apply(self, block: Block) -> None:
        for layer in self.layers_in(block):
            bits = self.bits
            if bits is None:
                if layer.activation is None:
                    raise ValueError(f"{layer.site}: its input is float; set symmetric-shift.bits")
                bits = int(layer.activation.bits)
            skip = layer.site.name in self.skip_first
            ranges = [
                percentile_range(x.flatten(0, 1).T.contiguous(), bits)
                for x, _ in row_batches(block, layer, self.batch, skip)
            ]
            centre(layer, *average_range(ranges, self.zero_points), bits)


def centre(layer: Layer, scale_I: Tensor, zero_point_I: Tensor, bits: int) -> None:
    """Shift a layer's input so that each channel's zero point becomes 2**(bits-1) - 1."""
    shift_channels(layer, -(2 ** (bits - 1) - 1 - zero_point_I) * scale_I)
