# SPDX-License-Identifier: Apache-2.0
"""Backends for the model's linears: golden model, and plain fake quantization to compare with."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from lutvar.contract.formats.ties import TieRule
from lutvar.contract.hadamard import sign_vector
from lutvar.contract.quant_preset import GROUP, QuantConfig
from lutvar.quant.formats.quantize import quantize
from lutvar.quant.formats.scales import ScaleRule
from lutvar.quant.ptq.model import HasSites, QuantizedModel
from lutvar.quant.ptq.rotation import signed_hadamard
from lutvar.quant.var.sites import LinearSite

from .linear import GoldenLinear, GoldenResult

#: Called with "block3.fc1.codes" and the array, for every intermediate of every call.
Recorder = Callable[[str, NDArray[Any]], None]

#: Weights kept as float32 between calls, at most (1 GiB).
_MAX_WEIGHTS = 1 << 28


class GoldenBackend:
    """Computes the block linears at code level (contract, sections 1 to 5).

    Args:
        model: quantized layers; those of the model that this backend is given to.
        recorder: gets every intermediate by name: `SITE.input` (FP16 patterns), `.codes`,
            `.scale`, `.scale_neg`, `.group_sums` if kept, `.y`.
        keep_sums: compute the group sums for the recorder (large).
        keep_weights: keep each layer's weights expanded to float32 between calls. Default: yes,
            if all layers together need at most 1 GiB.
    """

    def __init__(
        self,
        model: QuantizedModel,
        recorder: Recorder | None = None,
        keep_sums: bool = False,
        keep_weights: bool | None = None,
    ) -> None:
        self.model, self.recorder, self.keep_sums = model, recorder, keep_sums
        self.keep_weights = model.weights <= _MAX_WEIGHTS if keep_weights is None else keep_weights
        self._prepared: dict[LinearSite, GoldenLinear] = {}

    def linear(self, site: LinearSite) -> GoldenLinear:
        """The layer of a site, ready to run. Raises KeyError for an unknown site."""
        prepared = self._prepared.get(site)
        if prepared is None:
            prepared = GoldenLinear(self.model[site])
            if self.keep_weights:
                self._prepared[site] = prepared
        return prepared

    def compute(self, site: LinearSite, rows: Tensor | NDArray[np.float32]) -> GoldenResult:
        """Everything that the layer computes for float32 rows [R, I]; calls the recorder."""
        result = self.linear(site)(rows, self.keep_sums)
        if self.recorder is not None:
            self.recorder(f"{site}.input", result.inputs)
            for name, value in result.activations._asdict().items():
                self.recorder(f"{site}.{name}", value)
            if result.group_sums is not None:
                self.recorder(f"{site}.group_sums", result.group_sums)
            self.recorder(f"{site}.y", result.y)
        return result

    def __call__(
        self, site: LinearSite, x_BLC: Tensor, weight_OI: Tensor, bias_O: Tensor | None
    ) -> Tensor:
        layer = self.model[site]
        if tuple(weight_OI.shape) != layer.codes.shape:
            raise ValueError(
                f"{site}: the model's weight is {list(weight_OI.shape)}, the quantized one "
                f"{list(layer.codes.shape)}; quantize this model"
            )
        y = torch.from_numpy(self.compute(site, x_BLC.reshape(-1, layer.inputs)).y)
        return y.to(x_BLC.device).view(*x_BLC.shape[:-1], layer.outputs)


class FakeQuantBackend:
    """Dequantized weights times dequantized activations in float32, in torch's summation order.

    What quantization research usually evaluates. Same formats, groups and rotation as the golden
    model; another scale rule, and none of its defined order.

    Args:
        model: the transformer, whose weights are quantized and dequantized here.
        config: preset.
        scale_rule: for weights and activations.
    """

    def __init__(
        self, model: HasSites, config: QuantConfig, scale_rule: ScaleRule = ScaleRule.ABSMAX_FP32
    ) -> None:
        self.config, self.scale_rule = config, scale_rule
        self._rotation = torch.eye(GROUP, dtype=torch.float64)
        self._rotation = signed_hadamard(self._rotation, sign_vector(config.hadamard_seed))
        self._rotation = (self._rotation / math.sqrt(GROUP)).float()
        self._weights: dict[LinearSite, Tensor] = {}
        for site, weight, _ in model.iter_sites():
            rotated = self._rotate(site, weight.detach().cpu().float())
            quantized = quantize(
                rotated, config.weight_format, scale_rule=scale_rule, ties=TieRule.EVEN
            )
            self._weights[site] = quantized.dequantize()

    def __call__(
        self, site: LinearSite, x_BLC: Tensor, weight_OI: Tensor, bias_O: Tensor | None
    ) -> Tensor:
        x = self._rotate(site, x_BLC.detach())
        fmt = self.config.sites[site.name].format
        quantized = quantize(x, fmt, scale_rule=self.scale_rule, ties=self.config.ties)
        return F.linear(quantized.dequantize(), self._weights[site], bias_O)

    def _rotate(self, site: LinearSite, x: Tensor) -> Tensor:
        if not self.config.sites[site.name].rotate:
            return x
        return (x.reshape(-1, GROUP) @ self._rotation).view(x.shape)
