# SPDX-License-Identifier: Apache-2.0
"""Learned rounding of each layer by itself.

Source: AdaRound (arXiv:2004.10568), sections 3.2 and 3.3, with its asymmetric target (quantized
input, float output). The paper takes 10,000 steps on small batches; here every step sees all
samples at once through their second moments, so a few hundred do. On FP grids the neighbours are
unequal spacing treated separately, as in FP4DiT (arXiv:2503.15465) and arXiv:2408.06995.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from lutvar.quant.methods.calibration.moments import Moments, Weighting, layer_moments
from lutvar.quant.methods.layers.layer import Block, Layer
from lutvar.quant.methods.layers.rounding import SoftRounding, power_at

from .base import StepBase, register_step


@register_step("adaround")
class AdaRound(StepBase):
    """Chooses up or down for every weight by the layer's output error.

    Attributes:
        steps: of Adam, over all samples.
        rate: learning rate.
        penalty: weight of the regulariser, relative to the error before.
        warmup: share of the steps without regulariser.
        weighting: whether tokens or scale steps count the same.
    """

    reads_data: ClassVar[bool] = True

    steps: int = Field(default=200, ge=1)
    rate: float = Field(default=0.1, gt=0)
    penalty: float = Field(default=10.0, gt=0)
    warmup: float = Field(default=0.2, ge=0, lt=1)
    weighting: Weighting = "token"

    def apply(self, block: Block) -> None:
        for layer in self.layers_in(block):
            if layer.weight is not None:
                moments = layer_moments(block, layer, self.step, self.weighting)
                layer.rounded_OI = self._round(layer, moments)

    @torch.no_grad()
    def _round(self, layer: Layer, moments: Moments) -> Tensor:
        soft, start = SoftRounding(layer), layer.current()
        before = moments.loss(start, layer.weight_OI)
        if before <= 0:
            return start
        optimizer = torch.optim.Adam([soft.v_OI], lr=self.rate)
        for step in range(self.steps):
            progress = (step / self.steps - self.warmup) / (1 - self.warmup)
            slope_h, slope_penalty = soft.slope(power_at(max(progress, 0.0)))
            gradient = moments.gradient(soft.soft(), layer.weight_OI)
            gradient *= 2 / before * soft.gap_OI * slope_h
            if progress > 0:
                gradient += self.penalty * slope_penalty
            soft.v_OI.grad = gradient
            optimizer.step()
        rounded = soft.hard()
        after = moments.loss(rounded, layer.weight_OI)
        layer.notes.append(f"{self.step}: output error {before:.4g} to {after:.4g}")
        return rounded if after < before else start
