# SPDX-License-Identifier: Apache-2.0
"""Channel balance with a moving average of ranges, separately for ranges of scale steps.

Source: ViDiT-Q (arXiv:2406.02540), section 3.2 and released code: factor
`act**alpha / max|W|**(1 - alpha)` with `act` the moving average (momentum .95) of each sample's
channel maximum; range of denoising steps -> range of scale steps. Its rotation is step hadamard.
"""

from __future__ import annotations

from itertools import pairwise
from typing import ClassVar

import torch
from pydantic import Field, model_validator
from torch import Tensor
from typing_extensions import Self

from lutvar.quant.methods.errors import CalibrationError
from lutvar.quant.methods.layers.layer import Block
from lutvar.quant.methods.layers.operations import scale_channels
from lutvar.quant.methods.layers.ranged import RangedLayer

from .base import StepBase, register_step


@register_step("vidit")
class ViditBalance(StepBase):
    """Splits each linear into ranges of scale steps and balances each with its own factors.

    Attributes:
        starts: where each range begins, as a fraction of the scale steps; the first is 0.
        alpha: exponent of each range.
        momentum: of the moving average over samples.
    """

    reads_data: ClassVar[bool] = True

    starts: tuple[float, ...] = (0.0, 0.5)
    alpha: tuple[float, ...] = (0.3, 0.3)
    momentum: float = Field(default=0.95, ge=0, lt=1)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        rising = all(a < b for a, b in pairwise(self.starts))
        if not self.starts or self.starts[0] != 0 or not rising or self.starts[-1] >= 1:
            raise ValueError(f"starts {self.starts}: they must rise from 0 and stay below 1")
        if len(self.alpha) != len(self.starts):
            raise ValueError(f"{len(self.alpha)} alpha for {len(self.starts)} ranges of scales")
        return self

    def apply(self, block: Block) -> None:
        assert block.data is not None
        scales = block.data.scales
        firsts = sorted({int(start * len(scales)) for start in self.starts})
        tokens = [scales[first][0] for first in firsts] + [scales[-1][1]]
        for name, layer in list(block.layers.items()):
            if self.sites is not None and name not in self.sites:
                continue
            if isinstance(layer, RangedLayer):
                raise ValueError(f"step vidit: {layer.site} is split already; name it once")
            x_BLI = block.data.inputs[name]
            if x_BLI.shape[0] < 4:
                raise CalibrationError(
                    f"step vidit at {layer.site}: {x_BLI.shape[0] // 2} calibration sample(s); a "
                    "moving average needs at least 2: set calibration.samples"
                )
            if x_BLI.shape[1] != scales[-1][1]:
                raise ValueError(f"step vidit: {layer.site} sees no tokens of scales; leave it out")
            x_BLI = layer.prepared(x_BLI)
            ranged = RangedLayer.split(layer, tuple(firsts))
            for part, alpha, (a, b) in zip(
                ranged.parts, self.alpha, pairwise(tokens), strict=False
            ):
                range_x = moving_range(x_BLI[:, a:b], self.momentum).clamp_min(1e-5)
                range_w = part.weight_OI.abs().amax(0).clamp_min(1e-5)
                factor = range_x**alpha / range_w ** (1 - alpha)
                scale_channels(part, 1 / factor.clamp_min(1e-5))
            block.layers[name] = ranged


def moving_range(x_BlI: Tensor, momentum: float) -> Tensor:
    """Moving average over samples of a channel's largest magnitude, [I].

    Rows are conditional samples, then the same unconditional; the two halves are averaged first.
    """
    amax_NI = x_BlI.abs().amax(1)
    if len(amax_NI) % 2 == 0:
        amax_NI = amax_NI.unflatten(0, (2, -1)).mean(0)
    average = amax_NI[0]
    for amax_I in amax_NI[1:]:
        average = torch.lerp(amax_I, average, momentum)
    return average
