# SPDX-License-Identifier: Apache-2.0
"""The quantized model with gradients for what its layers store: weights, their scales, biases."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lutvar.quant.methods.attention.plain import PlainAttention
from lutvar.quant.methods.attention.registry import AttentionMethod
from lutvar.quant.methods.layers.grid import GridWeight, grid_weight, values
from lutvar.quant.methods.layers.layer import Layer
from lutvar.quant.methods.layers.learnable import run_layer, straight_apply
from lutvar.quant.methods.layers.ranged import RangedLayer
from lutvar.quant.methods.quantizers.fake import FakeQuantizer, Scales
from lutvar.quant.methods.quantizers.spec import ScaleType
from lutvar.quant.var import Var
from lutvar.quant.var.sites import FloatAttention, LinearSite


class TunedLayer:
    """One layer with its variables.

    Attributes:
        log_scale: logarithm of what its scales are multiplied by, as `Scales.positive`; None where
            the scales cannot move: float weights, and scale rules with few values (pow2, e4m3).
        latent_OI: what is rounded to the grid; None where the integers stay as they are.
        change: (up_OR, down_RI) whose product is added to the latent, instead of training that.
        second: whether the weight is in two terms: the second set quantizes what the first leaves.
        bias_O: its bias; zeros for a layer without.
    """

    def __init__(self, layer: Layer, free_integers: bool = False, rank: int = 0) -> None:
        if isinstance(layer, RangedLayer):
            raise ValueError(
                f"{layer.site}: tune works on layers with one weight; this one has one for each "
                "range of scale steps, leave tune or that step out"
            )
        self.layer = layer
        self.start_OI = layer.used_OI
        self.second = layer.second_OI is not None
        self.grid: GridWeight | None = None
        if layer.weight is not None and layer.weight.spec.scale in (ScaleType.FP32, ScaleType.FP16):
            self.grid = grid_weight(layer)
        self.log_scale: Tensor | None = None
        self.latent_OI: Tensor | None = None
        if self.grid is not None:
            self.log_scale = torch.zeros_like(self.grid.scales.positive)
            if free_integers:
                self.latent_OI = self.start_OI.clone()
        self.change: tuple[Tensor, Tensor] | None = None
        if rank and self.latent_OI is not None:
            O, I = self.latent_OI.shape  # noqa: E741
            draw = torch.Generator().manual_seed(layer.site.block)
            down_RI = torch.randn(rank, I, generator=draw, dtype=torch.float32) / rank**0.5
            self.change = torch.zeros(O, rank, dtype=torch.float32), down_RI
        outputs = len(self.start_OI)
        self.bias_O = (
            torch.zeros(outputs, dtype=torch.float32)
            if layer.bias_O is None
            else layer.bias_O.clone()
        )

    def weight(self) -> Tensor:
        """The weight as it is now, [O, I]."""
        if self.grid is None or self.log_scale is None:
            return self.start_OI
        quantizer = self._quantizer
        latent_OI = self.latent()
        if latent_OI is not None:
            weight_OI = straight_apply(quantizer, latent_OI, self._scales(self.log_scale))
            if self.second:
                # Its scales are those of what is left; gradients reach it through the latent.
                left_OI = latent_OI - weight_OI
                scales = quantizer.scales(left_OI.detach())
                weight_OI = weight_OI + straight_apply(quantizer, left_OI, scales)
            return weight_OI
        if not self.log_scale.requires_grad:
            return self.start_OI
        assert self.layer.rounded_OI is not None
        blocks = quantizer.blocks(self.layer.rounded_OI)
        weight_OI = (blocks * self.log_scale.exp()).reshape(self.start_OI.shape)
        return weight_OI if self.layer.second_OI is None else weight_OI + self.layer.second_OI

    def latent(self) -> Tensor | None:
        """What is rounded to the grid now, [O, I]; None where the integers stay as they are."""
        if self.latent_OI is None or self.change is None:
            return self.latent_OI
        up_OR, down_RI = self.change
        return self.latent_OI + up_OR @ down_RI

    def finished(self) -> Layer:
        """The layer with what was learned."""
        layer = replace(self.layer, notes=list(self.layer.notes), bias_O=self.bias_O.detach())
        if self.grid is None or self.log_scale is None:
            return layer
        quantizer = self._quantizer
        scales = self._scales(self.log_scale.detach())
        if quantizer.spec.scale == ScaleType.FP16:
            scales = scales._replace(
                positive=scales.positive.half().float(),
                negative=None if scales.negative is None else scales.negative.half().float(),
            )
        layer.weight_scales = scales
        moved = ""
        latent_OI = self.latent()
        if latent_OI is None:
            layer.rounded_OI = values(quantizer, GridWeight(self.grid.integers_OI, scales))
        else:
            layer.rounded_OI = quantizer.apply(latent_OI.detach(), scales)
            if self.second:
                layer.add_second(latent_OI.detach())
            grid = grid_weight(layer)
            assert grid is not None, f"{layer.site}: weights that are not on their grid"
            share = float((grid.integers_OI != self.grid.integers_OI).float().mean())
            moved = f", {share:.1%} of the integers moved"
        factor = self.log_scale.detach().exp()
        low, high = float(factor.min()), float(factor.max())
        layer.notes.append(f"tune: scales times {low:.3f} to {high:.3f}{moved}")
        return layer

    @property
    def _quantizer(self) -> FakeQuantizer:
        assert self.layer.weight is not None
        return self.layer.weight

    def _scales(self, log_scale: Tensor) -> Scales:
        assert self.grid is not None
        scales, factor = self.grid.scales, log_scale.exp()
        negative = None if scales.negative is None else scales.negative * factor
        return Scales(scales.positive * factor, negative, scales.zero_point)


class _StraightAttention(PlainAttention):
    """Quantized operands in the forward pass, gradients straight through."""

    def _quantized(self, name: str, x: Tensor) -> Tensor:
        return x + (super()._quantized(name, x.detach()) - x).detach()


class Student:
    """The quantized model as backends of the float one, with gradients.

    All scales are computed at once, behind the mask, as in training.
    """

    def __init__(
        self, var: Var, tuned: dict[LinearSite, TunedLayer], attention: dict[str, Any] | None
    ) -> None:
        self.var, self.tuned = var, tuned
        self.scales = var.config.scale_ranges
        self.attention: AttentionMethod | FloatAttention = FloatAttention()
        # Other kinds stay float here: their tables do not let gradients through.
        if attention is not None and attention.get("kind", "plain") == "plain":
            self.attention = _StraightAttention(attention, var, None)

    def linear(
        self, site: LinearSite, x: Tensor, weight_OI: Tensor, bias_O: Tensor | None
    ) -> Tensor:
        """Backend of linears: tuned layers with their current variables, others in float."""
        tuned = self.tuned.get(site)
        if tuned is None:
            return F.linear(x, weight_OI, bias_O)
        if x.dim() == 2:  # AdaLN projections see one vector for each row
            return self.linear(site, x.unsqueeze(1), weight_OI, bias_O).squeeze(1)
        first = self.scales[-1][1] - x.shape[1]  # the token embedding starts at the second scale
        parts = tuple((max(a - first, 0), b - first) for a, b in self.scales)
        if x.shape[1] == 1:
            parts = ((0, 1),)
        return run_layer(tuned.layer, x, parts, tuned.weight(), tuned.bias_O)

    def __call__(self, labels_B: Tensor, latent_BLZ: Tensor) -> Tensor:
        with backends(self.var, self.linear, self.attention):
            logits: Tensor = self.var(labels_B, latent_BLZ)
        return logits


@contextmanager
def backends(var: Var, linear: Any, attention: Any) -> Iterator[None]:
    """A model whose linears and attention are computed by others, for the `with` block."""
    with var.backends.replaced(linear, attention):
        yield
