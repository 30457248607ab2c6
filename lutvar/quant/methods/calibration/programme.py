# SPDX-License-Identifier: Apache-2.0
"""One choice for each linear with the smallest total damage within a budget.

Sources: the integer programme as in Hubara et al. (arXiv:2006.10518), section 3.4; solver: HiGHS
through SciPy. Greedy choice: MPTQ-ViT (arXiv:2401.14895).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp

from lutvar.quant.methods.errors import RecipeError
from lutvar.quant.var.sites import LinearSite

#: What names a choice.
C = TypeVar("C")


def greedy(
    damage: Mapping[tuple[LinearSite, C], float],
    costs: Mapping[tuple[LinearSite, C], float],
    budget: float,
    what: str = "mixed.budget",
) -> dict[LinearSite, C]:
    """From the dearest choices, one change after the other with the least damage for its saving.

    Raises:
        RecipeError: even the cheapest choices cost more.
    """
    names: dict[LinearSite, list[C]] = {}
    for site, name in damage:
        names.setdefault(site, []).append(name)
    plan = {site: max(own, key=lambda n: costs[site, n]) for site, own in names.items()}
    total = sum(costs[key] for key in plan.items())
    while total > budget * (1 + 1e-9):
        changes = [
            ((damage[site, name] - damage[site, plan[site]]) / saved, site, name)
            for site, own in names.items()
            for name in own
            if (saved := costs[site, plan[site]] - costs[site, name]) > 0
        ]
        if not changes:
            raise RecipeError(
                f"{what}: {budget:g} cannot be met; the cheapest choice costs {total:.6g}"
            )
        _, site, name = min(changes)
        total -= costs[site, plan[site]] - costs[site, name]
        plan[site] = name
    return plan


def solve(
    damage: Mapping[tuple[LinearSite, C], float],
    costs: Mapping[tuple[LinearSite, C], float],
    budget: float,
    what: str = "mixed.budget",
) -> dict[LinearSite, C]:
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
            f"{what}: {budget:g} cannot be met; the cheapest choice costs {cheapest:.6g}"
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
        raise RecipeError(f"{what}: the solver found no choice: {result.message}")
    return {k[0]: k[1] for k, x in zip(keys, result.x, strict=True) if x > 0.5}
