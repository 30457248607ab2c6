# SPDX-License-Identifier: Apache-2.0
"""How much an error of a linear's output matters to the model's logits.

Source: the second factor of K-FAC (arXiv:1503.05671, section 2): with g the gradient of
`-log p(token)` for a linear's output and tokens drawn from the model's own distribution,
`E[g^T g]` is the Fisher matrix of that output, tokens taken as independent. To second order a
small error e of the output moves the logits' KL divergence by `e E[g^T g] e^T / 2`.
"""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor
from torch.nn import functional as F

from lutvar.quant.methods.generator import Model
from lutvar.quant.var.sites import LinearSite, SiteName

from .samples import CalibrationSet

#: Rows (sample and guidance half) that the matrices are taken from; they need few.
ROWS = 64
_BATCH = 8


class RecordedOutputs:
    """A linear backend that remembers outputs, so that gradients for them can be asked."""

    def __init__(self, names: Collection[SiteName]) -> None:
        self.names = names
        self.results: list[tuple[LinearSite, Tensor]] = []

    def __call__(
        self, site: LinearSite, x_BLC: Tensor, weight_OI: Tensor, bias_O: Tensor | None
    ) -> Tensor:
        bias_O = None if bias_O is None else bias_O.detach()
        y_BLO = F.linear(x_BLC, weight_OI.detach(), bias_O)
        if site.name in self.names:
            if not y_BLO.requires_grad:
                y_BLO.requires_grad_()
            self.results.append((site, y_BLO))
        return y_BLO


def output_importance(
    var: Model, calibration: CalibrationSet, names: Collection[SiteName], seed: int = 0
) -> dict[LinearSite, Tensor]:
    """Site -> mean of g^T g over tokens, float32 [O, O], for the linears of the given names.

    Args:
        var: the float model; not changed.
        calibration: samples; evenly spaced rows of them are used.
        names: kinds of linears, of those whose outputs the logits depend on token by token.
        seed: of the tokens that are drawn.
    """
    labels_B, latent_BLZ = calibration.with_rows(ROWS).row_data(var.config.num_classes)
    draw = torch.Generator().manual_seed(seed)
    sums: dict[LinearSite, Tensor] = {}
    tokens = 0
    holder = var.backends
    before = holder.backend, holder.other
    outputs = RecordedOutputs(names)
    holder.backend = holder.other = outputs
    try:
        with torch.enable_grad():
            for labels, latent in zip(
                labels_B.split(_BATCH), latent_BLZ.split(_BATCH), strict=True
            ):
                outputs.results = []
                logs_NV = var(labels, latent).log_softmax(-1).flatten(0, 1)
                drawn_N1 = torch.multinomial(logs_NV.detach().exp(), 1, generator=draw)
                results = [y for _, y in outputs.results]
                loss = -logs_NV.gather(1, drawn_N1).sum()
                for (site, _), g_BLO in zip(
                    outputs.results, torch.autograd.grad(loss, results), strict=True
                ):
                    g_NO = g_BLO.flatten(0, -2)
                    sums[site] = sums.get(site, 0) + g_NO.mT @ g_NO
                tokens += len(logs_NV)
    finally:
        holder.backend, holder.other = before
    return {site: total / tokens for site, total in sums.items()}
