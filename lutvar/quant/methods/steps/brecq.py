# SPDX-License-Identifier: Apache-2.0
"""Learned rounding by the output of a whole half of the block (attention, FFN).

Source: BRECQ (arXiv:2102.05426), section 3.2, with AdaRound's variables, in the form that
Shift-and-Sum (Kim et al., its code) uses for VAR: sub-blocks {attention, FFN}, inputs of the float
model, squared error without Fisher weights. The error counts as it enters the residual stream,
after the AdaLN gate. Those take 5,000 steps; the default here is what fits two minutes on a core.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from lutvar.quant.methods.calibration.moments import require_data
from lutvar.quant.methods.layers.layer import Block, BlockData, Layer
from lutvar.quant.methods.layers.learnable import computed_by, run_layer
from lutvar.quant.methods.layers.rounding import SoftRounding, power_at
from lutvar.quant.var.blocks import VarBlock
from lutvar.quant.var.sites import SiteName

from .base import StepBase, register_step

_HALVES: dict[Literal["attention", "ffn"], tuple[SiteName, SiteName]] = {
    "attention": ("qkv", "proj"),
    "ffn": ("fc1", "fc2"),
}


@register_step("brecq")
class Brecq(StepBase):
    """Chooses up or down for every weight by the error of its half block.

    Attributes:
        steps: of Adam, for each half.
        batch: rows (sample and guidance half) of a step.
        rate: learning rate.
        penalty: weight of the regulariser, relative to the error before.
        warmup: share of the steps without regulariser.
    """

    reads_data: ClassVar[bool] = True

    steps: int = Field(default=120, ge=1)
    batch: int = Field(default=4, ge=1)
    rate: float = Field(default=0.1, gt=0)
    penalty: float = Field(default=3.0, gt=0)
    warmup: float = Field(default=0.2, ge=0, lt=1)

    def apply(self, block: Block) -> None:
        if block.module is None:
            return
        targets = {layer.site.name for layer in self.layers_in(block) if layer.weight is not None}
        for salt, (half, names) in enumerate(_HALVES.items()):
            learned = [block.layers[name] for name in names if name in targets]
            if learned:
                for layer in learned:
                    require_data(block, layer, self.step)
                with torch.enable_grad():
                    self._half(block, half, names, learned, block.generator(100 + salt))

    def _half(
        self,
        block: Block,
        half: Literal["attention", "ffn"],
        names: tuple[SiteName, SiteName],
        learned: list[Layer],
        draw: torch.Generator,
    ) -> None:
        data, module = block.data, block.module
        assert data is not None and data.modulation is not None and module is not None
        x_BLC = data.inputs[names[0]]
        gate_B1C = data.modulation.gate_attn if half == "attention" else data.modulation.gate_ffn
        with torch.no_grad(), computed_by(module, None):
            parts = [_output(module, half, x, data) for x in x_BLC.split(16)]
            target_BLC = torch.cat(parts) * gate_B1C
        soft = {layer.site.name: SoftRounding(layer) for layer in learned}

        start = {name: block.layers[name].current() for name in names if name in block.layers}

        def error(rows: Tensor, weights: dict[SiteName, Tensor]) -> Tensor:
            def run(name: SiteName, x: Tensor, weight_OI: Tensor, bias_O: Tensor | None) -> Tensor:
                layer = block.layers.get(name)
                if layer is None:
                    return torch.nn.functional.linear(x, weight_OI, bias_O)
                used_OI = weights.get(name, start[name])
                return run_layer(layer, x, data.scales, used_OI, layer.bias_O)

            with computed_by(module, run):
                y_BLC = _output(module, half, x_BLC[rows], data) * gate_B1C[rows]
            return (y_BLC - target_BLC[rows]).square().mean()

        def whole(weights: dict[SiteName, Tensor]) -> float:
            with torch.no_grad():
                rows = torch.arange(len(x_BLC)).split(16)
                return sum(float(error(r, weights)) * len(r) for r in rows) / len(x_BLC)

        before = whole({})
        variables = [s.v_OI.requires_grad_() for s in soft.values()]
        optimizer = torch.optim.Adam(variables, lr=self.rate)
        order = torch.randperm(len(x_BLC), generator=draw)
        size = min(self.batch, len(x_BLC))
        for step in range(self.steps):
            if len(order) < size:
                order = torch.cat((order, torch.randperm(len(x_BLC), generator=draw)))
            rows, order = order[:size], order[size:]
            progress = (step / self.steps - self.warmup) / (1 - self.warmup)
            loss = error(rows, {n: s.soft() for n, s in soft.items()}) / max(before, 1e-30)
            if progress > 0:
                power = power_at(progress)
                loss = loss + self.penalty * sum(s.penalty(power) for s in soft.values())
            for variable, gradient in zip(
                variables, torch.autograd.grad(loss, variables), strict=True
            ):
                variable.grad = gradient
            optimizer.step()
        rounded = {name: s.hard() for name, s in soft.items()}
        after = whole(rounded)
        for layer in learned:
            layer.rounded_OI = (rounded if after < before else start)[layer.site.name]
            layer.notes.append(f"{self.step}: {half} error {before:.4g} to {after:.4g}")


def _output(
    module: VarBlock, half: Literal["attention", "ffn"], h_BLC: Tensor, data: BlockData
) -> Tensor:
    """Attention or FFN of normalised input, before the gate."""
    if half == "attention":
        y_BLC: Tensor = module.attn(h_BLC, data.mask_11LL)
    else:
        y_BLC = module.ffn(h_BLC)
    return y_BLC
