# SPDX-License-Identifier: Apache-2.0
"""What learned steps need: quantizers with gradients, and a block that runs trial layers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn import functional as F

from lutvar.quant.methods.quantizers.fake import FakeQuantizer, Scales
from lutvar.quant.var.blocks import Modulation, VarBlock
from lutvar.quant.var.sites import BackendHolder, LinearSite, SiteName

from .layer import ActivationQuantizer, Layer

#: Computes a linear: (its name, input [B, L, I], float weight, bias) -> [B, L, O].
RunLinear = Callable[[SiteName, Tensor, Tensor, Tensor | None], Tensor]


def straight_apply(quantizer: FakeQuantizer, x: Tensor, scales: Scales) -> Tensor:
    """`quantizer.apply` with gradients for the values and the scales.

    Rounding passes gradients straight through; values beyond the end of the grid pass none, their
    gradient goes to the scale (LSQ, arXiv:1902.08153, equation 3; OmniQuant uses the same).
    """
    with torch.no_grad():
        fixed = scales.each(Tensor.detach)
        rounded = quantizer.blocks(quantizer.apply(x.detach(), fixed))
    blocks, scale = quantizer.blocks(x), scales.positive
    if scales.zero_point is not None:
        levels = 2**quantizer.spec.bits - 1
        place = blocks.detach() / fixed.positive + scales.zero_point.detach()
        beyond = (place < 0) | (place > levels)
        offset = -scales.zero_point
    else:
        negative = blocks.detach() < 0
        top = torch.where(
            negative & quantizer.format.dual,
            quantizer.format.scale_top(True),
            quantizer.format.scale_top(),
        )
        if scales.negative is not None:
            scale = torch.where(negative, scales.negative, scale)
        beyond = blocks.detach().abs() > top * scale.detach()
        offset = torch.zeros_like(scales.positive)
    inside = blocks + scale * ((rounded - blocks) / scale).detach()
    outside = scale * (offset + (rounded / scale - offset).detach())
    return torch.where(beyond, outside, inside).reshape(x.shape)


def straight_input(
    quantizer: ActivationQuantizer | None, x_BLI: Tensor, scales: tuple[tuple[int, int], ...]
) -> Tensor:
    """A quantized input with the gradient of the unquantized one; each scale separately."""
    if quantizer is None:
        return x_BLI
    with torch.no_grad():
        parts = [quantizer(x_BLI[:, a:b].detach(), k) for k, (a, b) in enumerate(scales)]
        change = torch.cat(parts, 1) - x_BLI
    return x_BLI + change


def run_layer(
    layer: Layer,
    x_BLI: Tensor,
    scales: tuple[tuple[int, int], ...],
    weight_OI: Tensor,
    bias_O: Tensor | None,
    last: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """What `Layer.__call__` computes, with a trial weight, bias and last operation."""
    x_BLI = layer.prepared(x_BLI)
    if last is not None:
        x_BLI = last(x_BLI)
    y_BLO = F.linear(straight_input(layer.activation, x_BLI, scales), weight_OI, bias_O)
    if layer.low_rank is not None:
        down_RI, up_OR = layer.low_rank
        y_BLO = y_BLO + F.linear(F.linear(x_BLI, down_RI), up_OR)
    return y_BLO


class _Backend:
    def __init__(self, run: RunLinear) -> None:
        self.run = run

    def __call__(
        self, site: LinearSite, x_BLC: Tensor, weight_OI: Tensor, bias_O: Tensor | None
    ) -> Tensor:
        return self.run(site.name, x_BLC, weight_OI, bias_O)


@contextmanager
def computed_by(module: VarBlock, run: RunLinear | None) -> Iterator[None]:
    """The linears of a float block go through `run` (None: float) for the `with` block."""
    holder = module.linears
    assert isinstance(holder, BackendHolder)
    before = holder.backend
    holder.backend = _Backend(run if run is not None else lambda name, x, w, b: F.linear(x, w, b))
    try:
        yield
    finally:
        holder.backend = before


def rows_of(modulation: Modulation, rows: Tensor) -> Modulation:
    """The AdaLN vectors of some rows."""
    return Modulation(*(vector[rows] for vector in modulation))
