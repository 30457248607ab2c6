# SPDX-License-Identifier: Apache-2.0
"""Three stages: weights adapt to quantized inputs, ranges of channels become one, weights adapt.

Source: I&S-ViT (arXiv:2311.10126), section 3.3 (smooth optimization) and released code: stage 1
trains the float weights of a block under inputs quantized by channel at norms; stage 2 is the
reparameterisation of RepQ-ViT; stage 3 trains them with quantized weights. Adam, cosine, straight
through. The probabilities' quantizer of the paper is attention rule `shift-uniform-log2`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from lutvar.quant.methods.calibration.fixed_range import (
    calibrated_range,
    calibration_rows,
    input_bits,
)
from lutvar.quant.methods.layers.layer import Block, BlockData, Layer
from lutvar.quant.methods.quantizers.fake import Scales
from lutvar.quant.var.blocks import Modulation, VarBlock
from lutvar.quant.var.sites import LinearBackend, LinearSite, SiteName

from .base import StepBase, register_step
from .repq import reparameterise


@register_step("ias")
class IasVit(StepBase):
    """The three stages over one block. The paper: 1000 iterations each, 64 images, rate 4e-5.

    A stage that does not lower the block's output error on the calibration rows is undone.

    Attributes:
        norm_sites: linears with ranges of each channel in stage 1.
        iterations: optimiser steps of stages 1 and 3, each.
        rows: (sample, half) rows of a batch.
        rate: learning rate at the start.
        tokens: calibration tokens that ranges are taken from.
    """

    reads_data: ClassVar[bool] = True

    norm_sites: tuple[SiteName, ...] = ("qkv", "fc1")
    iterations: int = Field(default=30, ge=0)
    rows: int = Field(default=4, ge=1)
    rate: float = Field(default=2e-4, gt=0)
    tokens: int = 4096

    def apply(self, block: Block) -> None:
        layers = {layer.site.name: layer for layer in self.layers_in(block)}
        if not layers:
            return
        if block.module is None:
            names = ", ".join(layers)
            raise ValueError(
                f"step ias rebuilds blocks; {names} lies outside: name it in no `sites`"
            )
        for layer in layers.values():
            bits = input_bits(layer, self.step)
            x_NI = calibration_rows(block, layer, self.step, self.tokens)
            by_channel = layer.site.name in self.norm_sites
            layer.activation = calibrated_range(x_NI, bits, by_channel)
        target_BLC = self._target(block)
        self._train(block, layers, target_BLC, {}, 1)
        for name in self.norm_sites:
            if name in layers:
                channels = layers[name].activation
                reparameterise(layers[name], channels)  # type: ignore[arg-type]
        scales = {
            name: layer.weight.scales(layer.weight_OI)
            for name, layer in layers.items()
            if layer.weight is not None
        }
        self._train(block, layers, target_BLC, scales, 3)
        for name, scale in scales.items():
            layer = layers[name]
            assert layer.weight is not None
            layer.rounded_OI = layer.weight.apply(layer.weight_OI, scale)

    def _target(self, block: Block) -> Tensor:
        assert block.module is not None and block.data is not None
        with torch.no_grad():
            return _forward(block.module, block.data, torch.arange(len(block.data.labels_B)))

    def _train(
        self,
        block: Block,
        layers: dict[SiteName, Layer],
        target_BLC: Tensor,
        scales: dict[SiteName, Scales],
        stage: int,
    ) -> None:
        """Train weights and biases of the layers towards the float output of the block."""
        module, data = block.module, block.data
        assert module is not None and data is not None
        weights = {name: layer.weight_OI.clone() for name, layer in layers.items()}
        biases = {
            name: torch.zeros(len(layer.weight_OI), dtype=torch.float32)
            if layer.bias_O is None
            else layer.bias_O.clone()
            for name, layer in layers.items()
        }
        parameters = [*weights.values(), *biases.values()]

        def run(
            site: LinearSite, x_BLC: Tensor, weight_OI: Tensor, bias_O: Tensor | None
        ) -> Tensor:
            layer = layers.get(site.name)
            if layer is None:
                return F.linear(x_BLC, weight_OI, bias_O)
            x = layer.prepared(x_BLC)
            assert layer.activation is not None
            x = x + (layer.activation(x.detach(), 0) - x).detach()
            weight = weights[site.name]
            if site.name in scales:
                assert layer.weight is not None
                rounded = layer.weight.apply(weight.detach(), scales[site.name])
                weight = weight + (rounded - weight).detach()
            return F.linear(x, weight, biases[site.name])

        count = len(data.labels_B)
        check = torch.linspace(0, count - 1, min(count, 8), dtype=torch.float32).long()

        def loss(rows: Tensor) -> Tensor:
            out_BLC = _forward(module, data, rows, run)
            return F.mse_loss(out_BLC, target_BLC[rows])

        with torch.no_grad():
            before = float(loss(check))
        start = [p.clone() for p in parameters]
        optimiser = torch.optim.Adam(parameters, lr=self.rate)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, max(self.iterations, 1))
        draw = block.generator(stage)
        for parameter in parameters:
            parameter.requires_grad_(True)
        with torch.enable_grad():
            for _ in range(self.iterations):
                rows = torch.randperm(count, generator=draw)[: self.rows]
                gradients = torch.autograd.grad(loss(rows), parameters)
                for parameter, gradient in zip(parameters, gradients, strict=True):
                    parameter.grad = gradient
                optimiser.step()
                schedule.step()
        with torch.no_grad():
            after = float(loss(check))
            if not after < before:
                for parameter, old in zip(parameters, start, strict=True):
                    parameter.copy_(old)
        for name, layer in layers.items():
            layer.weight_OI, layer.bias_O = weights[name].detach(), biases[name].detach()
            outcome = "kept" if after < before else "undone"
            layer.notes.append(f"ias stage {stage}: error {before:.4g} to {after:.4g}, {outcome}")


@contextmanager
def _backend(module: VarBlock, backend: LinearBackend | None) -> Iterator[None]:
    holder = module.linears
    before = holder.backend
    holder.backend = before if backend is None else backend
    try:
        yield
    finally:
        holder.backend = before


def _forward(
    module: VarBlock, data: BlockData, rows: Tensor, backend: LinearBackend | None = None
) -> Tensor:
    """Output of a block for some rows of the calibration data."""
    assert data.x_BLC is not None and data.modulation is not None
    modulation = Modulation(*(part[rows] for part in data.modulation))
    with _backend(module, backend):
        return module(data.x_BLC[rows], modulation, mask_11LL=data.mask_11LL)
