# SPDX-License-Identifier: Apache-2.0
"""Formats chosen for each linear of each block under a budget, by an integer programme.

Sources: the programme (one choice for each linear, smallest total damage within a budget) as in
Hubara et al. (arXiv:2006.10518), section 3.4; damage measured one linear at a time as in ZeroQ
(arXiv:2001.00281), by KL of the model's output, or by the error of the linear's own output;
rankings without any quantized run: LIM and ZD (arXiv:2406.17415). Solver: HiGHS through SciPy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from scipy.optimize import Bounds, LinearConstraint, milp
from torch import Tensor
from torch.nn import functional as F

from lutvar.contract.costs import load_array_costs
from lutvar.quant.methods.calibration.samples import CalibrationSet, data_by_block
from lutvar.quant.methods.errors import CalibrationError, RecipeError
from lutvar.quant.methods.layers.layer import BlockData, Layer
from lutvar.quant.var import Var
from lutvar.quant.var.blocks import VarBlock
from lutvar.quant.var.sites import LinearSite, SiteName

from .recipe import Recipe
from .specs import LayerSpec, MixedSpec

#: (block, its data, formats of its linears) -> finished layers: what the recipe's steps make.
BuildBlock = Callable[[int, BlockData | None, Mapping[SiteName, LayerSpec]], dict[SiteName, Layer]]
Damage = dict[tuple[LinearSite, str], float]


@dataclass(frozen=True)
class Plan:
    """What was chosen.

    Attributes:
        choices: site -> name of the choice.
        damage: (site, choice) -> measured damage.
        cost: of all linears together, in the unit of the budget.
    """

    choices: dict[LinearSite, str]
    damage: Damage
    cost: float


def plan_mixed(
    var: Var, recipe: Recipe, calibration: CalibrationSet | None, build: BuildBlock
) -> Plan:
    """Measure every choice at every linear and choose within the budget.

    Raises:
        CalibrationError: the measure needs samples and there are none.
        RecipeError: no choice of formats meets the budget.
    """
    mixed = recipe.mixed
    assert mixed is not None
    damage = _damage(var, recipe, mixed, calibration, build)
    costs = {
        (site, name): _cost(mixed, var, site, mixed.choices[name][site.name])
        for site, name in damage
    }
    choices = solve(damage, costs, mixed.limit)
    total = sum(costs[site, name] for site, name in choices.items())
    return Plan(choices, damage, total)


def solve(
    damage: Mapping[tuple[LinearSite, str], float],
    costs: Mapping[tuple[LinearSite, str], float],
    budget: float,
) -> dict[LinearSite, str]:
    """One choice for each site with the smallest sum of damage, cost at most the budget.

    Raises:
        RecipeError: even the cheapest choices cost more.
    """
    keys = list(damage)
    sites = list(dict.fromkeys(site for site, _ in keys))
    values = np.array([damage[k] for k in keys])
    cost = np.array([costs[k] for k in keys])
    cheapest = sum(min(costs[k] for k in keys if k[0] == site) for site in sites)
    # The budget may be met exactly; rounding of the sum must not forbid it.
    allowed = budget * (1 + 1e-9)
    if cheapest > allowed:
        raise RecipeError(
            f"mixed.budget: {budget:g} cannot be met; the cheapest choice of formats costs "
            f"{cheapest:.6g}"
        )
    one_each = np.array([[float(k[0] == site) for k in keys] for site in sites])
    result = milp(
        values / max(float(values.max()), 1e-300),
        constraints=[
            LinearConstraint(one_each, 1, 1),
            LinearConstraint(cost[None] / max(allowed, 1e-300), -np.inf, 1),
        ],
        integrality=np.ones(len(keys)),
        bounds=Bounds(0, 1),
        options={"mip_rel_gap": 0.0},
    )
    if result.x is None:
        raise RecipeError(f"mixed.budget: the solver found no choice of formats: {result.message}")
    return {k[0]: k[1] for k, x in zip(keys, result.x, strict=True) if x > 0.5}


def _cost(mixed: MixedSpec, var: Var, site: LinearSite, spec: LayerSpec) -> float:
    """Share of one linear in the budget's unit, so that the shares of all add up to it."""
    assert spec.weight is not None
    width, hidden = var.config.width, var.config.hidden
    sizes = {"qkv": 3 * width, "proj": width, "fc1": hidden, "fc2": hidden}
    count = sizes[site.name] * width
    names = next(iter(mixed.choices.values()))
    total = var.config.depth * sum(sizes[name] * width for name in names)
    unit, _ = mixed.budget_item
    if unit == "bits":
        return spec.weight.bits * count / total
    if unit == "bytes":
        return (spec.weight.bits + spec.weight.scale_bits()) * count / 8
    assert spec.input is not None
    return multiplier_luts(spec.weight.format, spec.input.format) * count / total


@cache
def multiplier_luts(weight: str, activation: str) -> float:
    """LUTs of a multiplier lane for a pair of formats, as synthesised.

    Raises:
        RecipeError: no array was synthesised for this pair.
    """
    pairs = {
        (cost.weight, operand): cost.lut
        for cost in load_array_costs()
        if cost.form == "table"
        for operand in ((cost.plain,) if cost.dual is None else (cost.dual,))
    }
    if (weight, activation) not in pairs:
        names = ", ".join(f"{w} x {a}" for w, a in pairs)
        raise RecipeError(
            f"mixed.budget.luts: no measured array multiplies {weight} by {activation}; there are "
            f"{names}"
        )
    return pairs[weight, activation]


def _damage(
    var: Var,
    recipe: Recipe,
    mixed: MixedSpec,
    calibration: CalibrationSet | None,
    build: BuildBlock,
) -> Damage:
    damage: Damage = {}
    if mixed.sensitivity == "zd":
        for block in var.blocks:
            assert isinstance(block, VarBlock)
            for site, weight_OI, _ in block.iter_linears():
                _ranked(damage, mixed, site, z_fraction(weight_OI), weight_OI.numel())
        return damage
    if calibration is None:
        raise CalibrationError(f"recipe {recipe.name} needs calibration samples; give some")
    measure = _Kl(var, calibration.first(mixed.samples)) if mixed.sensitivity == "kl" else None
    for index, data in enumerate(data_by_block(var, calibration, recipe.calibration.mask)):
        if index == var.config.depth:
            break
        module = var.blocks[index]
        assert isinstance(module, VarBlock)
        if mixed.sensitivity == "lim":
            score = insertion_distance(module, data)
            for site, weight_OI, _ in module.iter_linears():
                _ranked(damage, mixed, site, score, weight_OI.numel())
            continue
        floats = {site.name: (weight, bias) for site, weight, bias in module.iter_linears()}
        for choice, specs in mixed.choices.items():
            for name, layer in build(index, data, specs).items():
                if measure is not None:
                    damage[layer.site, choice] = measure(layer)
                else:
                    damage[layer.site, choice] = relative_error(layer, data, *floats[name])
    return damage


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


class _Kl:
    """Mean KL of the model's tokens when one linear is quantized, under teacher forcing."""

    def __init__(self, var: Var, calibration: CalibrationSet) -> None:
        self.var = var
        labels_N = calibration.labels_N
        self.labels_B = torch.cat((labels_N, torch.full_like(labels_N, var.config.num_classes)))
        self.latent_BLZ = calibration.inputs_NLZ.repeat(2, 1, 1)
        self.log_p = self._log_probabilities(None)

    def _log_probabilities(self, layer: Layer | None) -> Tensor:
        with _one_layer(self.var, layer), torch.no_grad():
            return torch.log_softmax(self.var(self.labels_B, self.latent_BLZ), -1)

    def __call__(self, layer: Layer) -> float:
        log_q = self._log_probabilities(layer)
        kl = F.kl_div(log_q, self.log_p, reduction="none", log_target=True).sum(-1).mean()
        return float(kl.clamp_min(0))


@contextmanager
def _one_layer(var: Var, layer: Layer | None) -> Iterator[None]:
    """The float model with one linear replaced; its tokens run scale by scale."""
    bounds = np.cumsum([p * p for p in var.config.patch_nums]).tolist()

    def run(site: LinearSite, x_BLC: Tensor, weight_OI: Tensor, bias_O: Tensor | None) -> Tensor:
        if layer is None or site != layer.site:
            return F.linear(x_BLC, weight_OI, bias_O)
        parts = x_BLC.tensor_split(bounds[:-1], 1)
        return torch.cat([layer(part, k) for k, part in enumerate(parts)], 1)

    holder = var.backends
    before = holder.backend, holder.other
    holder.backend = holder.other = run
    try:
        yield
    finally:
        holder.backend, holder.other = before
