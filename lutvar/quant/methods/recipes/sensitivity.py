# SPDX-License-Identifier: Apache-2.0
"""How much it damages the model to quantize one of its linears.

Sources: one linear at a time as in ZeroQ (arXiv:2001.00281), by KL of the model's output, or by the
error of the linear's own output; rankings without any quantized run: LIM and ZD
(arXiv:2406.17415), relevance (LRP-QViT, arXiv:2401.11243).
ViDiT-Q and MixDQ measure content and quality apart. In VAR coarse scales decide what an image
shows and fine ones how well it is drawn, so these two are KL over the tokens of either.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from lutvar.quant.methods.calibration.output_kl import OutputKl
from lutvar.quant.methods.calibration.samples import CalibrationSet, data_by_block
from lutvar.quant.methods.errors import CalibrationError
from lutvar.quant.methods.layers.layer import BlockData, Layer
from lutvar.quant.var import Var
from lutvar.quant.var.blocks import VarBlock
from lutvar.quant.var.sites import SITE_NAMES, LinearSite, SiteName

from .recipe import Recipe
from .specs import LayerSpec, MixedSpec

#: (block, its data, formats of its linears) -> finished layers: what the recipe's steps make.
BuildBlock = Callable[[int, BlockData | None, Mapping[SiteName, LayerSpec]], dict[SiteName, Layer]]
Damage = dict[tuple[LinearSite, str], float]
#: Measures of the model's output.
OUTPUT = ("kl", "content", "quality")


class Sensitivity:
    """Measures the choices of a recipe.

    Args:
        var: the float model.
        recipe: the recipe.
        mixed: its choices.
        calibration: samples, or None where no measure needs any.
        build: makes the layers of a block.

    Raises:
        CalibrationError: a measure needs samples and there are none.
    """

    def __init__(
        self,
        var: Var,
        recipe: Recipe,
        mixed: MixedSpec,
        calibration: CalibrationSet | None,
        build: BuildBlock,
    ) -> None:
        self.var, self.mixed, self.build = var, mixed, build
        self.calibration, self.masked = calibration, recipe.calibration.mask
        self.kinds = set(mixed.kinds)
        if calibration is None and self.kinds != {"zd"}:
            raise CalibrationError(f"recipe {recipe.name} needs calibration samples; give some")
        self._layers: dict[tuple[LinearSite, str], Layer] = {}
        self._kl: OutputKl | None = None
        if calibration is not None and (self.kinds & {*OUTPUT} or mixed.split == "search"):
            self._kl = OutputKl(var, calibration.first(mixed.samples))

    def damage(self) -> Damage:
        """(site, choice) -> damage, each by the measure of its group."""
        damage: Damage = {}
        if self.kinds == {"zd"} or self.calibration is None:
            for block in self.var.blocks:
                assert isinstance(block, VarBlock)
                self._rank(damage, block, None)
            return damage
        for index, data in enumerate(data_by_block(self.var, self.calibration, self.masked)):
            if index == self.var.config.depth:
                break
            module = self.var.blocks[index]
            assert isinstance(module, VarBlock)
            self._rank(damage, module, data)
            if self.kinds <= {"relevance", "lim", "zd"} and self.mixed.split == "even":
                continue
            floats = {site.name: (weight, bias) for site, weight, bias in module.iter_linears()}
            for choice, specs in self.mixed.choices.items():
                for name, layer in self.build(index, data, specs).items():
                    kind = self.mixed.kind_of(name)
                    if kind in OUTPUT:
                        assert self._kl is not None
                        damage[layer.site, choice] = self._kl({layer.site: layer}, kind)
                    elif kind == "output":
                        damage[layer.site, choice] = relative_error(layer, data, *floats[name])
                    if self.mixed.split == "search":
                        self._layers[layer.site, choice] = layer
        return damage

    def together(self, choices: Mapping[LinearSite, str]) -> float:
        """KL of the model with all linears as chosen, for `split: search`."""
        assert self._kl is not None
        return self._kl({site: self._layers[site, name] for site, name in choices.items()}, "kl")

    def _relevance(self) -> Tensor:
        if self.calibration is None or self.calibration.relevance is None:
            raise CalibrationError(
                "sensitivity: relevance needs samples with it; set calibration.relevance"
            )
        return self.calibration.relevance

    def _rank(self, damage: Damage, module: VarBlock, data: BlockData | None) -> None:
        """Damage by the rankings."""
        for site, weight_OI, _ in module.iter_linears():
            kind = self.mixed.kind_of(site.name)
            if kind == "zd":
                _ranked(damage, self.mixed, site, z_fraction(weight_OI), weight_OI.numel())
            elif kind == "relevance":
                score = float(self._relevance()[site.block, SITE_NAMES.index(site.name)])
                # Of a linear as a whole, whatever its size.
                _ranked(damage, self.mixed, site, score, 1)
            elif kind == "lim" and data is not None:
                score = insertion_distance(module, data)
                _ranked(damage, self.mixed, site, score, weight_OI.numel())


def _ranked(damage: Damage, mixed: MixedSpec, site: LinearSite, score: float, count: int) -> None:
    """Damage from a ranking: the score times the noise power of the weight's bits."""
    for choice, specs in mixed.choices.items():
        if site.name in specs:
            weight = specs[site.name].weight
            assert weight is not None
            damage[site, choice] = score * count * 4.0**-weight.bits


def z_fraction(weight_OI: Tensor) -> float:
    """ZD: share of weights more than one standard deviation above the mean."""
    centred = weight_OI.detach() - weight_OI.detach().mean()
    return float((centred > centred.std()).float().mean())


@torch.no_grad()
def insertion_distance(module: VarBlock, data: BlockData) -> float:
    """LIM: one minus the cosine between what enters and leaves a block, mean over tokens."""
    assert data.x_BLC is not None and data.modulation is not None
    y_BLC = module(data.x_BLC, data.modulation, mask_11LL=data.mask_11LL)
    return float(1 - F.cosine_similarity(data.x_BLC, y_BLC, dim=-1).mean())


@torch.no_grad()
def relative_error(
    layer: Layer, data: BlockData, weight_OI: Tensor, bias_O: Tensor | None
) -> float:
    """Squared error of a layer's output over its energy, on the calibration data."""
    error = energy = 0.0
    for scale_index, x_BlI in enumerate(data.by_scale(layer.site.name)):
        exact = F.linear(x_BlI, weight_OI, bias_O)
        error += float((layer(x_BlI, scale_index) - exact).square().sum())
        energy += float(exact.square().sum())
    return error / max(energy, 1e-30)
