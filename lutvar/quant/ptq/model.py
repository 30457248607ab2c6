# SPDX-License-Identifier: Apache-2.0
"""All block linears of a VAR model as codes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor
from tqdm import tqdm

from lutvar.contract.quant_preset import QuantConfig
from lutvar.quant.var.sites import LinearSite

from .linear import QuantizedLinear, quantize_linear
from .weights import QuantizationError, need_groups


class HasSites(Protocol):
    """What quantization needs of a model: `lutvar.quant.var.Var` has it."""

    def iter_sites(self) -> Iterator[tuple[LinearSite, Tensor, Tensor]]:
        """Site, weight [O, I] and bias [O] of every linear that the accelerator runs."""


@dataclass(frozen=True, eq=False)
class QuantizedModel:
    """The quantized layers of one model, in the order they run.

    Attributes:
        config: the preset they were made with.
        layers: site -> layer.
    """

    config: QuantConfig
    layers: Mapping[LinearSite, QuantizedLinear]

    def __getitem__(self, site: LinearSite) -> QuantizedLinear:
        try:
            return self.layers[site]
        except KeyError:
            raise KeyError(
                f"{site} is not among the {len(self.layers)} quantized layers "
                f"({', '.join(map(str, list(self.layers)[:4]))}, ...); quantize the model in use"
            ) from None

    @property
    def weights(self) -> int:
        """Number of weight codes in all layers."""
        return sum(layer.codes.size * layer.terms.weights for layer in self.layers.values())


def quantize_model(model: HasSites, config: QuantConfig, progress: bool = True) -> QuantizedModel:
    """Quantize every block linear, one layer at a time (the model itself is not changed).

    Args:
        model: a VAR transformer.
        config: preset.
        progress: show a bar on a terminal.

    Raises:
        QuantizationError: an input width that is not a multiple of 128 (found before any work),
            a value out of range or not finite, a model without block linears.
    """
    sites = list(model.iter_sites())
    if not sites:
        raise QuantizationError("the model has no block linears; nothing can be quantized")
    for site, weight, _ in sites:
        need_groups(str(site), weight.shape[1])
    layers = {}
    # disable=None: no bar unless standard error is a terminal.
    for site, weight, bias in tqdm(
        sites, desc=f"quantize ({config.name})", unit="layer", disable=None if progress else True
    ):
        layers[site] = quantize_linear(site, weight, bias, config)
    return QuantizedModel(config, layers)
