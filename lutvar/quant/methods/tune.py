# SPDX-License-Identifier: Apache-2.0
"""Scales and biases of a quantized model, tuned end to end against the float model's logits.

Source: EfficientQAT (arXiv:2407.11062), section 3.3 (E2E-QP): the integers of the weights stay as
they are, their group scales are trained through the whole model. Here biases are trained besides,
the float model is the teacher, on its own samples (as LLM-QAT, arXiv:2305.17888, section 2), and
gradients pass the quantizers of inputs straight through (arXiv:1308.3432). All of it is stored in
any case, so nothing is added at run time.

What the recipe's `tune` says is done when all blocks are; unlike steps it needs the model whole.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from torch.nn import functional as F

from lutvar.quant.var import Var
from lutvar.quant.var.sites import FloatAttention, FloatLinear, LinearSite

from .attention import AttentionMethod, PlainAttention
from .calibration import CalibrationSet
from .grid import GridWeight, grid_weight, values
from .layer import Layer
from .learnable import run_layer
from .ranged import RangedLayer

if TYPE_CHECKING:
    from .build import QuantizedVar

#: Rows whose KL divergence decides whether the result is kept.
_CHECKED_ROWS = 32
#: Steps in which the rate rises from 0.
_WARMUP = 5


class TuneSpec(BaseModel):
    """How scales and biases are tuned, as recipes write it.

    Attributes:
        steps: of Adam.
        batch: rows (sample and guidance half) of a step.
        scales: rate of the logarithms of weight scales; 0 leaves scales alone.
        biases: rate of biases, relative to the mean size of the layer's; 0 leaves biases alone.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: int = Field(default=80, ge=1)
    batch: int = Field(default=16, ge=1)
    scales: float = Field(default=0.003, ge=0)
    biases: float = Field(default=0.01, ge=0)


class _Tuned:
    """One layer with its variables.

    Attributes:
        log_scale: logarithm of what its scales are multiplied by, as `Scales.positive`; None where
            the scales cannot move: float weights, and scale rules with few values (pow2, e4m3).
        bias_O: its bias; zeros for a layer without.
    """

    def __init__(self, layer: Layer) -> None:
        if isinstance(layer, RangedLayer):
            raise ValueError(
                f"{layer.site}: tune works on layers with one weight; this one has one for each "
                "range of scale steps, leave tune or that step out"
            )
        self.layer = layer
        assert layer.rounded_OI is not None, f"{layer.site}: finish() was not called"
        self.start_OI = layer.rounded_OI
        self.grid: GridWeight | None = None
        if layer.weight is not None and layer.weight.spec.scale in ("fp32", "fp16"):
            self.grid = grid_weight(layer)
        self.log_scale: Tensor | None = None
        if self.grid is not None:
            self.log_scale = torch.zeros_like(self.grid.scales.positive)
        outputs = len(self.start_OI)
        self.bias_O = torch.zeros(outputs) if layer.bias_O is None else layer.bias_O.clone()

    def weight(self) -> Tensor:
        """The weight with its scales as they are now, [O, I]."""
        if self.log_scale is None or not self.log_scale.requires_grad:
            return self.start_OI
        assert self.layer.weight is not None
        blocks = self.layer.weight.blocks(self.start_OI)
        return (blocks * self.log_scale.exp()).reshape(self.start_OI.shape)

    def finished(self) -> Layer:
        """The layer with what was learned; its integers are the old ones."""
        layer = replace(self.layer, notes=list(self.layer.notes), bias_O=self.bias_O.detach())
        if self.grid is not None and self.log_scale is not None and layer.weight is not None:
            factor = self.log_scale.detach().exp()
            half = layer.weight.spec.scale == "fp16"

            def moved(scale: Tensor) -> Tensor:
                return (scale * factor).half().float() if half else scale * factor

            scales = self.grid.scales
            negative = None if scales.negative is None else moved(scales.negative)
            scales = scales._replace(positive=moved(scales.positive), negative=negative)
            layer.weight_scales = scales
            layer.rounded_OI = values(layer.weight, GridWeight(self.grid.integers_OI, scales))
            low, high = float(factor.min()), float(factor.max())
            layer.notes.append(f"tune: scales times {low:.3f} to {high:.3f}")
        return layer


class _StraightAttention(PlainAttention):
    """Quantized operands in the forward pass, gradients straight through."""

    def _quantized(self, name: str, x: Tensor) -> Tensor:
        return x + (super()._quantized(name, x.detach()) - x).detach()


class _Student:
    """The quantized model as backends of the float one, with gradients."""

    def __init__(
        self, var: Var, tuned: dict[LinearSite, _Tuned], attention: dict[str, Any] | None
    ) -> None:
        self.var, self.tuned = var, tuned
        bounds = [0]
        for side in var.config.patch_nums:
            bounds.append(bounds[-1] + side * side)
        self.scales = tuple(pairwise(bounds))
        self.attention: AttentionMethod | FloatAttention = FloatAttention()
        # Other kinds stay float here: their tables do not let gradients through.
        if attention is not None and attention.get("kind", "plain") == "plain":
            self.attention = _StraightAttention(attention, var, None)

    def linear(
        self, site: LinearSite, x: Tensor, weight_OI: Tensor, bias_O: Tensor | None
    ) -> Tensor:
        found = self.tuned.get(site)
        if found is None:
            return F.linear(x, weight_OI, bias_O)
        if x.dim() == 2:  # AdaLN projections see one vector for each row
            return self.linear(site, x.unsqueeze(1), weight_OI, bias_O).squeeze(1)
        first = self.scales[-1][1] - x.shape[1]  # the token embedding starts at the second scale
        parts = tuple((max(a - first, 0), b - first) for a, b in self.scales)
        if x.shape[1] == 1:
            parts = ((0, 1),)
        return run_layer(found.layer, x, parts, found.weight(), found.bias_O)

    def __call__(self, labels_B: Tensor, latent_BLZ: Tensor) -> Tensor:
        with _backends(self.var, self.linear, self.attention):
            logits: Tensor = self.var(labels_B, latent_BLZ)
        return logits


@contextmanager
def _backends(var: Var, linear: Any, attention: Any) -> Iterator[None]:
    holder = var.backends
    before = holder.backend, holder.other, holder.attention
    holder.backend = holder.other = linear
    holder.attention = attention
    try:
        yield
    finally:
        holder.backend, holder.other, holder.attention = before


def tune(
    model: QuantizedVar,
    var: Var,
    calibration: CalibrationSet,
    spec: TuneSpec,
    progress: Callable[[int, int], None] | None = None,
) -> QuantizedVar:
    """The model with tuned scales and biases, or as it was if that did not help.

    Args:
        model: finished layers for `var`; not changed.
        var: the float model; not changed.
        calibration: samples; the first rows also decide whether the result is kept.
        spec: the settings.
        progress: called as progress(steps done, steps).

    Raises:
        ValueError: a layer that cannot be tuned.
    """
    tuned = {site: _Tuned(layer) for site, layer in model.layers.items()}
    student = _Student(var, tuned, model.recipe.attention)
    labels_B, latent_BLZ = calibration.row_data(var.config.num_classes)
    checked = torch.arange(0, len(labels_B), max(len(labels_B) // _CHECKED_ROWS, 1))

    def divergence(rows: Tensor) -> Tensor:
        with torch.no_grad(), _backends(var, FloatLinear(), FloatAttention()):
            exact_BLV = var(labels_B[rows], latent_BLZ[rows])
        return mean_kl(exact_BLV, student(labels_B[rows], latent_BLZ[rows]))

    def over_checked() -> float:
        with torch.no_grad():
            parts = checked.split(spec.batch)
            return sum(float(divergence(p)) * len(p) for p in parts) / len(checked)

    before = over_checked()
    groups = _groups(tuned, spec)
    if not groups:
        return model
    optimizer = torch.optim.Adam(groups, betas=(0.9, 0.99))
    rates = [group["lr"] for group in optimizer.param_groups]
    variables = [v for group in optimizer.param_groups for v in group["params"]]
    draw = torch.Generator().manual_seed(model.recipe.seed * 1009 + 1)
    size = min(spec.batch, len(labels_B))
    order = torch.randperm(len(labels_B), generator=draw)
    with torch.enable_grad():
        for step in range(spec.steps):
            turn = 0.5 * (1 + math.cos(math.pi * step / spec.steps)) * min(1, (step + 1) / _WARMUP)
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * turn
            if len(order) < size:
                order = torch.cat((order, torch.randperm(len(labels_B), generator=draw)))
            rows, order = order[:size], order[size:]
            gradients = torch.autograd.grad(divergence(rows), variables, allow_unused=True)
            for variable, gradient in zip(variables, gradients, strict=True):
                variable.grad = gradient
            optimizer.step()
            if progress is not None:
                progress(step + 1, spec.steps)
    after = over_checked()
    note = f"tune: KL of the model on calibration samples {before:.4g} to {after:.4g} nat"
    if not after < before:
        first = next(iter(model.layers))
        noted = replace(
            model.layers[first], notes=[*model.layers[first].notes, f"{note}; not kept"]
        )
        return replace(model, layers={**model.layers, first: noted})
    layers = {site: one.finished() for site, one in tuned.items()}
    next(iter(layers.values())).notes.append(note)
    return replace(model, layers=layers)


def mean_kl(exact_BLV: Tensor, value_BLV: Tensor) -> Tensor:
    """KL divergence of softmax(value) from softmax(exact), nat, mean over tokens."""
    logs = value_BLV.log_softmax(-1), exact_BLV.log_softmax(-1)
    return F.kl_div(*logs, reduction="sum", log_target=True) / exact_BLV[..., 0].numel()


def _groups(tuned: dict[LinearSite, _Tuned], spec: TuneSpec) -> list[dict[str, Any]]:
    """Adam's parameter groups."""
    groups: list[dict[str, Any]] = []
    for one in tuned.values():
        if spec.scales and one.log_scale is not None:
            groups.append({"params": [one.log_scale.requires_grad_()], "lr": spec.scales})
        if spec.biases:
            # Without a bias to go by, a part of what the outputs reach for inputs of size 1.
            size = float(one.bias_O.abs().mean()) or 0.1 * float(one.start_OI.norm(dim=1).mean())
            groups.append({"params": [one.bias_O.requires_grad_()], "lr": spec.biases * size})
    return groups
