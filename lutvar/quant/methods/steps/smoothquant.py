# SPDX-License-Identifier: Apache-2.0
"""Channel factors from the ranges of input and weight.

Source: SmoothQuant (arXiv:2211.10438), equation 4; in VAR 1/s folds into the AdaLN vectors.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field
from torch import Tensor

from lutvar.quant.methods.calibration.rows import row_batches
from lutvar.quant.methods.layers.layer import Block
from lutvar.quant.methods.layers.operations import scale_channels
from lutvar.quant.methods.quantizers.percentiles import moving_average
from lutvar.quant.var.sites import SiteName

from .base import StepBase, register_step


@register_step("smoothquant")
class SmoothQuant(StepBase):
    """x / f and W f with `f = max|x|**alpha / max|W|**(1 - alpha)` for each input channel.

    Attributes:
        alpha: share of the input's range.
        skip_first: linears whose first scale step does not count (a sink token).
        batch: rows for each set of factors, which are averaged as they come (PTQ4ARVG's released
            code); default all rows at once.
    """

    reads_data: ClassVar[bool] = True

    alpha: float = 0.5
    skip_first: tuple[SiteName, ...] = ()
    batch: int | None = Field(default=None, ge=1)

    def apply(self, block: Block) -> None:
        assert block.data is not None
        for layer in self.layers_in(block):
            skip = layer.site.name in self.skip_first
            if self.batch is not None:
                batches = [x for x, _ in row_batches(block, layer, self.batch, skip)]
            else:
                x = layer.prepared(block.data.inputs[layer.site.name])
                first = block.data.sink_tokens if skip else 0
                batches = [x[:, first:]]
            factor = moving_average([self._factor(x, layer.weight_OI) for x in batches])
            scale_channels(layer, 1 / factor)

    def _factor(self, x_BLI: Tensor, weight_OI: Tensor) -> Tensor:
        range_x = x_BLI.abs().flatten(0, -2).amax(0).clamp_min(1e-5)
        range_w = weight_OI.abs().amax(0).clamp_min(1e-5)
        return (range_x**self.alpha / range_w ** (1 - self.alpha)).clamp_min(1e-5)
