# SPDX-License-Identifier: Apache-2.0
"""The step `mixed-passes`: what it chooses, what that costs the array, what it refuses."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest

from lutvar.contract.terms import Terms
from lutvar.quant.methods import (
    CalibrationSet,
    QuantizedVar,
    Recipe,
    RecipeError,
    calibration_set,
    load_recipe,
    quantize_var,
)
from lutvar.quant.methods.calibration.output_kl import OutputKl
from lutvar.quant.methods.hardware.report import hardware
from lutvar.quant.methods.steps.mixed_passes import MixedPasses, array_work, more_work
from lutvar.quant.models import LoadedModel, load_model
from lutvar.quant.var.sites import LinearSite


@cache
def digits() -> LoadedModel:
    return load_model("digits")


@cache
def samples() -> CalibrationSet:
    return calibration_set(digits().var, digits().vqvae, 2, seed=0)


@cache
def quantized(budget: float, sites: tuple[str, ...] | None = None) -> QuantizedVar:
    return quantize_var(digits().var, recipe(budget, sites), samples())


def recipe(
    budget: float, sites: tuple[str, ...] | None = None, terms: dict[str, Any] | None = None
) -> Recipe:
    values = load_recipe("fpqvar-fp4-head2").model_dump()
    values["steps"] = [
        {"step": "hadamard", "sites": ["qkv", "fc1", "head"]},
        {"step": "mixed-passes", "budget": budget, "samples": 2, "sites": sites},
    ]
    return Recipe.model_validate(values | {"terms": terms or {}})


def taken(made: QuantizedVar) -> float:
    """Percent of the array's cycles beyond those of one term everywhere."""
    terms = {site: Terms(*layer.terms) for site, layer in made.layers.items()}
    return more_work(array_work(digits().var, made.layers), terms)


def kl(made: QuantizedVar) -> float:
    return OutputKl(digits().var, samples())(made.layers, "kl")


@pytest.mark.parametrize("budget", [0, 10])
def test_keeps_the_budget_and_uses_it(budget: float) -> None:
    made = quantized(budget)
    assert budget * 0.7 <= taken(made) <= budget
    assert hardware(made, digits().var).runs
    if budget:
        assert kl(made) < 0.9 * kl(quantized(0))
        notes = [note for layer in made.layers.values() for note in layer.notes]
        assert f"mixed-passes: {taken(made):.2f} % more cycles of the array" in notes


def test_a_large_budget_gives_every_layer_all_that_it_can_have() -> None:
    made = quantized(300)
    assert {layer.terms for site, layer in made.layers.items() if site.name != "fc2"} == {(2, 2)}
    # A dual format has no second term of inputs.
    assert {layer.terms for site, layer in made.layers.items() if site.name == "fc2"} == {(2, 1)}
    assert kl(made) < 0.1 * kl(quantized(0))


def test_leaves_other_linears_alone() -> None:
    made = quantized(300, ("proj",))
    two = {site.name for site, layer in made.layers.items() if layer.terms != (1, 1)}
    assert two == {"proj"} and made.layers[LinearSite(0, "proj")].second_OI is not None


def test_terms_of_the_recipe_are_the_fewest() -> None:
    made = quantize_var(digits().var, recipe(20, terms={"blocks.0.fc2": [2, 1]}), samples())
    assert made.layers[LinearSite(0, "fc2")].terms == (2, 1) and taken(made) <= 20
    with pytest.raises(RecipeError, match=r"step mixed-passes: budget 1 %: .* cannot be met; the"):
        quantize_var(digits().var, recipe(1, terms={"fc2": [2, 1]}), samples())


def test_work_counts_passes_and_padding() -> None:
    work = array_work(digits().var, quantized(0).layers)
    assert work[LinearSite(0, "qkv")] == 384  # 3 * 128 outputs, one group
    assert work[LinearSite(0, "fc2")] == 128 * 4 * 2  # twice for the dual format
    assert work[LinearSite(4, "head")] == 128  # 96 outputs take a whole stripe


def test_refuses_a_budget_that_no_terms_reach() -> None:
    for budget in (-1, 301, float("nan")):
        with pytest.raises(ValueError, match="budget"):
            MixedPasses(step="mixed-passes", budget=budget)
