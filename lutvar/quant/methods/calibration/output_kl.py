# SPDX-License-Identifier: Apache-2.0
"""What some quantized linears do to the model's output, the others in float."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from lutvar.quant.methods.layers.layer import Layer
from lutvar.quant.var import Var
from lutvar.quant.var.sites import LinearSite

from .samples import CalibrationSet


class OutputKl:
    """Mean KL of the model's tokens when some linears are quantized, under teacher forcing."""

    def __init__(self, var: Var, calibration: CalibrationSet) -> None:
        self.var = var
        self.labels_B, self.latent_BLZ = calibration.row_data(var.config.num_classes)
        self.log_p = self._log_probabilities({})
        sides = var.config.patch_nums
        coarse = sum(p * p for p in sides[: (len(sides) + 1) // 2])
        self.tokens = {
            "kl": slice(None), "content": slice(coarse), "quality": slice(coarse, None)
        }  # fmt: skip

    def _log_probabilities(self, layers: Mapping[LinearSite, Layer]) -> Tensor:
        with replaced_layers(self.var, layers), torch.no_grad():
            return torch.log_softmax(self.var(self.labels_B, self.latent_BLZ), -1)

    def __call__(self, layers: Mapping[LinearSite, Layer], kind: str) -> float:
        """KL over all tokens ("kl"), those of the coarse scales ("content") or the others."""
        log_q = self._log_probabilities(layers)
        kl_BL = F.kl_div(log_q, self.log_p, reduction="none", log_target=True).sum(-1)
        return float(kl_BL[:, self.tokens[kind]].mean().clamp_min(0))


@contextmanager
def replaced_layers(var: Var, layers: Mapping[LinearSite, Layer]) -> Iterator[None]:
    """The float model with some linears replaced; their tokens run scale by scale."""
    bounds = np.cumsum([p * p for p in var.config.patch_nums]).tolist()

    def run(site: LinearSite, x_BLC: Tensor, weight_OI: Tensor, bias_O: Tensor | None) -> Tensor:
        layer = layers.get(site)
        if layer is None:
            return F.linear(x_BLC, weight_OI, bias_O)
        parts = x_BLC.tensor_split(bounds[:-1], 1)
        return torch.cat([layer(part, k) for k, part in enumerate(parts)], 1)

    with var.backends.replaced(run):
        yield
