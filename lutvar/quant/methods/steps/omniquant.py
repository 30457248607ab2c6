# SPDX-License-Identifier: Apache-2.0
"""Learned clip factors of the weights, and learned channel scales and shifts after the norms.

Source: OmniQuant (arXiv:2308.13137), equations 2 (learnable weight clipping), 3 and 4 (learnable
equivalent transformation) and its settings: start from SmoothQuant's factors and the middle of the
range, AdamW without decay, rates 5e-3 and 1e-2, error of the whole block. Scale and shift of a norm
site fold into VAR's AdaLN vectors. The paper takes 20 epochs over 128 samples and feeds each block
what the quantized blocks before it produce; here blocks see the float model's input.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from lutvar.quant.methods.calibration.moments import require_data
from lutvar.quant.methods.layers.layer import Block, Layer
from lutvar.quant.methods.layers.learnable import computed_by, rows_of, run_layer, straight_apply
from lutvar.quant.methods.layers.operations import NORM_SITES, scale_channels, shift_channels
from lutvar.quant.var.sites import SiteName

from .base import StepBase, register_step


@register_step("omniquant")
class OmniQuant(StepBase):
    """Learns clipping, scales and shifts by the output error of the block.

    Attributes:
        steps: of AdamW.
        batch: rows (sample and guidance half) of a step.
        clip_rate, transform_rate: learning rates of clip factors and of scales and shifts.
        clipping, transform, shift: parts that can be left out; shift needs transform.
        alpha: strength of the SmoothQuant factors that the scales start from.
    """

    reads_data: ClassVar[bool] = True

    steps: int = Field(default=100, ge=1)
    batch: int = Field(default=4, ge=1)
    clip_rate: float = Field(default=1e-2, gt=0)
    transform_rate: float = Field(default=5e-3, gt=0)
    clipping: bool = True
    transform: bool = True
    shift: bool = True
    alpha: float = Field(default=0.5, ge=0, le=1)

    def apply(self, block: Block) -> None:
        if block.module is None:
            return
        trials: dict[SiteName, _Trial] = {}
        for layer in self.layers_in(block):
            if layer.weight is not None and layer.site.name != "ada_lin":
                layer.need_unrounded(self.step)
                data = require_data(block, layer, self.step)
                x = layer.prepared(data.inputs[layer.site.name])
                moves = self.transform and layer.site.name in NORM_SITES
                if not (moves or self.clipping):
                    continue
                alpha = self.alpha if moves else None
                trials[layer.site.name] = _Trial(layer, x, alpha, self.shift, self.clipping)
        if not trials:
            raise ValueError(
                f"{self.step}: block {block.index} has nothing to learn; clipping needs "
                f"linears with quantized weights, transform one of {', '.join(NORM_SITES)}"
            )
        with torch.enable_grad():
            self._learn(block, trials)

    def _learn(self, block: Block, trials: dict[SiteName, _Trial]) -> None:
        data, module = block.data, block.module
        assert data is not None and data.modulation is not None and module is not None
        x_BLC, modulation = data.x_BLC, data.modulation
        assert x_BLC is not None
        chunks = torch.arange(len(x_BLC)).split(16)
        with torch.no_grad(), computed_by(module, None):
            parts = [module(x_BLC[r], rows_of(modulation, r), data.mask_11LL) for r in chunks]
            target_BLC = torch.cat(parts)

        def error(rows: Tensor, learned: bool) -> Tensor:
            def run(name: SiteName, x: Tensor, weight_OI: Tensor, bias_O: Tensor | None) -> Tensor:
                if learned and name in trials:
                    return trials[name](x, data.scales)
                layer = block.layers.get(name)
                if layer is None:
                    return F.linear(x, weight_OI, bias_O)
                return run_layer(layer, x, data.scales, layer.current(), layer.bias_O)

            with computed_by(module, run):
                y_BLC = module(x_BLC[rows], rows_of(modulation, rows), data.mask_11LL)
            return (y_BLC - target_BLC[rows]).square().mean()

        def whole(learned: bool) -> float:
            with torch.no_grad():
                return sum(float(error(r, learned)) * len(r) for r in chunks) / len(x_BLC)

        before = whole(False)
        clips = [p for t in trials.values() for p in (t.high, t.low) if p is not None]
        moves = [p for t in trials.values() for p in (t.log_I, t.shift_I) if p is not None]
        groups = [(clips, self.clip_rate), (moves, self.transform_rate)]
        variables = [p for group, _ in groups for p in group]
        optimizer = torch.optim.AdamW(
            [{"params": group, "lr": lr} for group, lr in groups if group], weight_decay=0.0
        )
        draw, size = block.generator(200), min(self.batch, len(x_BLC))
        order = torch.randperm(len(x_BLC), generator=draw)
        for _ in range(self.steps):
            if len(order) < size:
                order = torch.cat((order, torch.randperm(len(x_BLC), generator=draw)))
            rows, order = order[:size], order[size:]
            loss = error(rows, True) / max(before, 1e-30)
            gradients = torch.autograd.grad(loss, variables)
            for variable, gradient in zip(variables, gradients, strict=True):
                variable.grad = gradient
            optimizer.step()
        after = whole(True)
        for trial in trials.values():
            if after < before:
                trial.keep()
            trial.layer.notes.append(f"{self.step}: block error {before:.4g} to {after:.4g}")


class _Trial:
    """A layer with its learned variables.

    Attributes:
        high, low: logits of the clip factors of each group's maximum and minimum, or None.
        log_I, shift_I: ln of the channel factor, and the channel shift, or None.
    """

    def __init__(
        self, layer: Layer, x_BLI: Tensor, alpha: float | None, shift: bool, clipping: bool
    ) -> None:
        assert layer.weight is not None
        self.layer, self.quantizer = layer, layer.weight
        self.log_I: Tensor | None = None
        self.shift_I: Tensor | None = None
        self.high: Tensor | None = None
        self.low: Tensor | None = None
        if alpha is not None:
            low_I, high_I = torch.aminmax(x_BLI.flatten(0, -2), dim=0)
            amax_I = torch.maximum(low_I.neg(), high_I)
            if shift:
                self.shift_I = ((low_I + high_I) / 2).requires_grad_()
                amax_I = (high_I - low_I) / 2
            range_I = layer.weight_OI.abs().amax(0).clamp_min(1e-5)
            factor_I = amax_I.clamp_min(1e-5) ** alpha / range_I ** (1 - alpha)
            self.log_I = factor_I.log().requires_grad_()
        if clipping:
            blocks = self.quantizer.blocks(layer.weight_OI)
            logits = torch.full_like(blocks[..., :1], 4.0)
            self.high = logits.clone().requires_grad_()
            if self.quantizer.spec.asymmetric or self.quantizer.two_sided:
                self.low = logits.clone().requires_grad_()

    def _factors(self) -> tuple[Tensor | float, Tensor | float]:
        high = 1.0 if self.high is None else torch.sigmoid(self.high)
        return high, high if self.low is None else torch.sigmoid(self.low)

    def __call__(self, x_BLI: Tensor, ranges: tuple[tuple[int, int], ...]) -> Tensor:
        """Output with the variables as they are."""
        layer = self.layer
        weight_OI, bias_O = layer.weight_OI, layer.bias_O
        if self.shift_I is not None:
            moved_O = weight_OI @ self.shift_I
            bias_O = moved_O if bias_O is None else bias_O + moved_O
        if self.log_I is not None:
            weight_OI = weight_OI * self.log_I.exp()
        scales = self.quantizer.scales(weight_OI, *self._factors())
        rounded_OI = straight_apply(self.quantizer, weight_OI, scales)
        return run_layer(layer, x_BLI, ranges, rounded_OI, bias_O, self._moved)

    def _moved(self, x_BLI: Tensor) -> Tensor:
        if self.shift_I is not None:
            x_BLI = x_BLI - self.shift_I
        return x_BLI if self.log_I is None else x_BLI * torch.exp(-self.log_I)

    @torch.no_grad()
    def keep(self) -> None:
        """Put what was learned into the layer."""
        if self.shift_I is not None:
            shift_channels(self.layer, -self.shift_I.detach())
        if self.log_I is not None:
            scale_channels(self.layer, torch.exp(-self.log_I.detach()))
        self.layer.weight_scales = self.quantizer.scales(self.layer.weight_OI, *self._factors())
