# SPDX-License-Identifier: Apache-2.0
"""Channel factors from the ranges of input and weight.

Source: SmoothQuant (arXiv:2211.10438), equation 4; in VAR 1/s folds into the AdaLN vectors.
"""

from __future__ import annotations

from typing import ClassVar

from lutvar.quant.methods.layers.layer import Block
from lutvar.quant.methods.layers.operations import scale_channels
from lutvar.quant.var.sites import SiteName

from .base import StepBase, register_step


@register_step("smoothquant")
class SmoothQuant(StepBase):
    """x / f and W f with `f = max|x|**alpha / max|W|**(1 - alpha)` for each input channel.

    Attributes:
        alpha: share of the input's range.
        skip_first: linears whose first scale step does not count (a sink token).
    """

    reads_data: ClassVar[bool] = True

    alpha: float = 0.5
    skip_first: tuple[SiteName, ...] = ()

    def apply(self, block: Block) -> None:
        assert block.data is not None
        for layer in self.layers_in(block):
            x = layer.prepared(block.data.inputs[layer.site.name])
            if layer.site.name in self.skip_first and len(block.data.scales) > 1:
                x = x[:, block.data.scales[0][1] :]
            range_x = x.abs().flatten(0, -2).amax(0).clamp_min(1e-5)
            range_w = layer.weight_OI.abs().amax(0).clamp_min(1e-5)
            factor = range_x**self.alpha / range_w ** (1 - self.alpha)
            scale_channels(layer, 1 / factor.clamp_min(1e-5))
