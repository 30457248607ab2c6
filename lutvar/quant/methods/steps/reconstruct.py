# SPDX-License-Identifier: Apache-2.0
"""Learned rounding as Shift-and-Sum does it: by sub-block, over all scale steps, behind quantizers.

Source: the released code of Shift-and-Sum (arXiv:2606.16131), after BRECQ (arXiv:2102.05426) and
AdaRound (arXiv:2004.10568). Sub-blocks are attention (qkv, products, proj, with a cache that grows
scale by scale) and FFN (fc1, GELU, fc2); every other linear is one by itself. Inputs and targets
are the float model's. Inputs, keys, values and probabilities are quantized while weights are
learned, and gradients pass through these quantizers and their scales. The threshold of the copies
of values is searched before, on the model rounded to nearest, and again afterwards.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import ClassVar

import torch
from pydantic import Field, PrivateAttr
from torch import Tensor
from torch.nn import functional as F

from lutvar.quant.methods.attention.plain import PlainAttention
from lutvar.quant.methods.attention.registry import MeasuredModel, make_attention
from lutvar.quant.methods.calibration.network import WholeModel
from lutvar.quant.methods.layers.layer import Block, Layer
from lutvar.quant.methods.layers.rounding import SoftRounding, power_at
from lutvar.quant.methods.layers.sub_block import SubBlock, sub_blocks
from lutvar.quant.methods.quantizers.fake import FakeQuantizer
from lutvar.quant.methods.quantizers.straight import straight
from lutvar.quant.var import Var
from lutvar.quant.var.sites import FloatAttention, LinearSite

from .base import ModelStep, register_step


@register_step("reconstruct")
class Reconstruct(ModelStep):
    """Chooses up or down for every weight by the error of its sub-block. Defaults as released.

    Attributes:
        steps: of Adam for each sub-block, with a rate that falls to 0 as a cosine.
        batch: rows (sample and guidance half) of a step, drawn with replacement.
        rate: learning rate. The released default is 4e-4, its commands use 1e-4.
        penalty: weight of the regulariser, a sum over weights. The released default is 1e-3, its
            commands use 1e-5.
    """

    steps: int = Field(default=5000, ge=1)
    batch: int = Field(default=4, ge=1)
    rate: float = Field(default=1e-4, gt=0)
    penalty: float = Field(default=1e-5, ge=0)

    then_blocks: ClassVar[bool] = True
    _attention: PlainAttention | None = PrivateAttr(None)

    def apply_model(self, model: WholeModel) -> None:
        """Measure the attention with which sub-blocks run."""
        self._attention = provisional_attention(model)

    def apply(self, block: Block) -> None:
        """Round the weights of all sub-blocks, each by itself."""
        names = {layer.site.name for layer in self.layers_in(block) if layer.weight is not None}
        draw = block.generator(300)
        for part in sub_blocks(block, names):
            self.learn(part, self._attention, draw)

    def learn(
        self, part: SubBlock, attention: PlainAttention | None, draw: torch.Generator | None
    ) -> None:
        """Round the weights of one sub-block.

        Args:
            part: its linears, which are rounded.
            attention: computes the products of attention; None for float.
            draw: random stream of the rows; None for torch's own.
        """
        soft = {layer.site: SoftRounding(layer) for layer in part.layers}
        targets, first, last = part.float_outputs(), 0.0, 0.0
        variables = [s.v_OI.requires_grad_() for s in soft.values()]
        optimizer = torch.optim.Adam(variables, lr=self.rate)
        for step in range(self.steps):
            turn = 0.5 * (1 + math.cos(math.pi * step / self.steps))
            optimizer.param_groups[0]["lr"] = self.rate * turn
            rows = torch.randint(0, len(targets[0]), (self.batch,), generator=draw)
            with torch.enable_grad():
                weights = {site: s.soft() for site, s in soft.items()}
                error = _error(part, attention, weights, targets, rows)
                power, loss = power_at((step + 1) / self.steps), error
                for s in soft.values():
                    loss = loss + self.penalty * (1 - (2 * s.h() - 1).abs() ** power).sum()
                gradients = torch.autograd.grad(loss, variables)
            last = float(error.detach())
            first = last if step == 0 else first
            for variable, gradient in zip(variables, gradients, strict=True):
                variable.grad = gradient
            optimizer.step()
        for layer in part.layers:
            layer.rounded_OI = soft[layer.site].hard()
            layer.notes.append(f"{self.step}: batch error {first:.4g} to {last:.4g}")


def _error(
    part: SubBlock,
    attention: PlainAttention | None,
    weights: Mapping[LinearSite, Tensor],
    targets: list[Tensor],
    rows: Tensor,
) -> Tensor:
    """Squared errors, summed over outputs and scale steps, mean over rows and tokens."""
    layers = {layer.site: layer for layer in part.layers}
    scale = 0

    def begin_scale(index: int) -> None:
        nonlocal scale
        scale = index
        if attention is not None:
            attention.begin_scale(index)

    def linear(site: LinearSite, x_BLC: Tensor, weight_OI: Tensor, bias_O: Tensor | None) -> Tensor:
        layer = layers.get(site)
        if layer is None:
            return F.linear(x_BLC, weight_OI, bias_O)
        x = layer.prepared(x_BLC)
        if isinstance(layer.activation, FakeQuantizer):
            x = straight(layer.activation, x)
        elif layer.activation is not None:
            x = x + (layer.activation(x.detach(), scale) - x).detach()
        return F.linear(x, weights[site], layer.bias_O)

    with _learning(attention):
        products = FloatAttention() if attention is None else attention
        outputs = part.outputs(linear, products, rows, begin_scale)
    errors = [
        (y - wanted[rows]).square().sum(-1).mean()
        for y, wanted in zip(outputs, targets, strict=True)
    ]
    return torch.stack(errors).sum()


@contextmanager
def _learning(attention: PlainAttention | None) -> Iterator[None]:
    """Quantizers of attention pass gradients on for the `with` block."""
    if attention is not None:
        attention.learning = True
    try:
        yield
    finally:
        if attention is not None:
            attention.learning = False


@torch.no_grad()
def provisional_attention(model: WholeModel) -> PlainAttention | None:
    """The recipe's attention, measured on the model with weights rounded to nearest.

    Raises:
        ValueError: a kind whose operands cannot be learned through.
    """
    if model.attention is None:
        return None
    method = make_attention(model.attention, model.var, model.calibration)
    if not isinstance(method, PlainAttention):
        raise ValueError(
            f"step reconstruct: attention of kind {model.attention.get('kind')} passes no "
            "gradients on; use plain or shift-and-sum, or the steps adaround and brecq"
        )
    measure = getattr(method, "measure", None)
    if measure is not None:
        assert isinstance(model.var, Var)  # `check_model` refuses others
        layers = model.layers
        nearest = {site: layer.current() for site, layer in layers.items()}
        shapes = {site: (w.shape[0], w.shape[1]) for site, w, _ in model.var.iter_sites()}
        shapes |= {site: (w_OI.shape[0], w_OI.shape[1]) for site, w_OI in nearest.items()}
        with _running(model.var, method, layers, nearest):
            measure(MeasuredModel(model.var, shapes, layers, model.calibration, model.masked))
    return method


@contextmanager
def _running(
    var: Var,
    method: PlainAttention,
    layers: Mapping[LinearSite, Layer],
    weights: Mapping[LinearSite, Tensor],
) -> Iterator[None]:
    """Layers and attention in the model, which must go scale by scale and call its hook."""
    scale = 0

    def begin_scale(index: int) -> None:
        nonlocal scale
        scale = index
        method.begin_scale(index)

    def linear(site: LinearSite, x_BLC: Tensor, weight_OI: Tensor, bias_O: Tensor | None) -> Tensor:
        layer = layers.get(site)
        if layer is None:
            return F.linear(x_BLC, weight_OI, bias_O)
        vector = x_BLC.dim() == 2  # AdaLN projections see one for each row
        h = layer.prepared(x_BLC.unsqueeze(1) if vector else x_BLC)
        h = h if layer.activation is None else layer.activation(h, scale)
        y = F.linear(h, weights[site], layer.bias_O)
        return y.squeeze(1) if vector else y

    hook = var.step_hook
    var.step_hook = begin_scale
    try:
        with var.backends.replaced(linear, method):
            yield
    finally:
        var.step_hook = hook
