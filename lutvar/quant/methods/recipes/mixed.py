# SPDX-License-Identifier: Apache-2.0
"""Formats chosen for each linear of each block under a budget, by an integer programme.

Source: Hubara et al. (arXiv:2006.10518), section 3.4; the solver is `calibration.programme`. Groups
of linears with a measure and a share of the budget of their own: the metric-decoupled analysis of
ViDiT-Q (arXiv:2406.02540v1) and MixDQ (arXiv:2405.17873).
How damage is measured is in `sensitivity`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from lutvar.contract.costs import load_array_costs
from lutvar.quant.methods.calibration.programme import greedy, solve
from lutvar.quant.methods.calibration.samples import CalibrationSet
from lutvar.quant.methods.errors import RecipeError
from lutvar.quant.var import Var
from lutvar.quant.var.sites import LinearSite

from .recipe import Recipe
from .sensitivity import BuildBlock, Damage, Sensitivity
from .specs import LayerSpec, MixedSpec

#: Shares of its even budget that the first of two groups is tried with (`MixedSpec.split`).
SPLITS = (0.8, 0.9, 1.0, 1.1, 1.2)


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
    sensitivity = Sensitivity(var, recipe, mixed, calibration, build)
    damage = sensitivity.damage()
    costs = {
        (site, name): _cost(mixed, var, site, mixed.choices[name][site.name])
        for site, name in damage
    }
    sizes = {site: float(weight_OI.numel()) for site, weight_OI, _ in var.iter_sites()}
    plans = choose(damage, costs, sizes, mixed)
    choices = plans[0]
    if len(plans) > 1:
        choices = min(plans, key=sensitivity.together)
    total = sum(costs[site, name] for site, name in choices.items())
    return Plan(choices, damage, total)


def choose(
    damage: Damage,
    costs: Mapping[tuple[LinearSite, str], float],
    sizes: Mapping[LinearSite, float],
    mixed: MixedSpec,
) -> list[dict[LinearSite, str]]:
    """One choice for each site; several candidates where the split of the budget is searched.

    Every group gets its share of the budget in proportion to its weights (`sizes`). With `split:
    search` the first group gets a multiple of that and the second what is left.

    Raises:
        RecipeError: no choice of formats meets the budget.
    """
    solver = greedy if mixed.solver == "greedy" else solve
    if not mixed.groups:
        return [solver(damage, costs, mixed.limit)]
    parts = [[key for key in damage if key[0].name in group.sites] for group in mixed.groups]
    weights = [sum(sizes[site] for site in {k[0] for k in keys}) for keys in parts]
    even = [mixed.limit * weight / sum(weights) for weight in weights]
    budgets = [even]
    if mixed.split == "search":
        budgets = [[even[0] * share, mixed.limit - even[0] * share] for share in SPLITS]
    plans: list[dict[LinearSite, str]] = []
    for limits in budgets:
        plan: dict[LinearSite, str] = {}
        try:
            for keys, limit in zip(parts, limits, strict=True):
                own = {key: damage[key] for key in keys}
                plan |= solver(own, {key: costs[key] for key in keys}, limit)
        except RecipeError:
            if limits is even:
                raise
            continue
        if plan not in plans:
            plans.append(plan)
    return plans


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
