# SPDX-License-Identifier: Apache-2.0
"""Formats under a budget: the programme against brute force, the measures, the recipe."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from lutvar.quant.methods import (
    CalibrationError,
    Recipe,
    RecipeError,
    calibration_set,
    load_recipe,
    quantize_var,
)
from lutvar.quant.methods.calibration.samples import data_by_block
from lutvar.quant.methods.recipes.mixed import (
    insertion_distance,
    multiplier_luts,
    plan_mixed,
    solve,
    z_fraction,
)
from lutvar.quant.models import LoadedModel, load_model
from lutvar.quant.var.sites import LinearSite
from support.quant.method_models import generated


@pytest.fixture(scope="module")
def digits() -> LoadedModel:
    return load_model("digits")


def _recipe(**changes: Any) -> Recipe:
    raw = load_recipe("mixed-fp4-fp6").model_dump()
    raw["mixed"] |= changes
    return Recipe.model_validate(raw)


def test_solve_against_brute_force() -> None:
    draw = torch.Generator().manual_seed(0)
    sites = [LinearSite(i, "qkv") for i in range(5)]
    names = ("a", "b", "c")
    for budget in (6.0, 9.0, 12.0):
        damage, costs = {}, {}
        for site in sites:
            for i, name in enumerate(names):
                damage[site, name] = float(torch.rand(1, generator=draw)) / (i + 1)
                costs[site, name] = (i + 1) * float(0.5 + torch.rand(1, generator=draw))
        found = solve(damage, costs, budget)
        assert sum(costs[s, n] for s, n in found.items()) <= budget * (1 + 1e-6)
        best = min(
            sum(damage[s, n] for s, n in zip(sites, pick, strict=True))
            for pick in itertools.product(names, repeat=5)
            if sum(costs[s, n] for s, n in zip(sites, pick, strict=True)) <= budget
        )
        assert sum(damage[s, n] for s, n in found.items()) == pytest.approx(best)
    with pytest.raises(RecipeError, match=r"mixed\.budget: 1 cannot be met; the cheapest"):
        solve(damage, costs, 1.0)


def test_budget_is_met_and_each_extreme_is_uniform(digits: LoadedModel) -> None:
    calibration = calibration_set(digits.var, digits.vqvae, 4, seed=0)
    for bits, expected in ((4.0, {"fp4"}), (6.0, {"fp6"}), (5.0, {"fp4", "fp6"})):
        recipe = _recipe(sensitivity="output", budget={"bits": bits})
        quantized = quantize_var(digits.var, recipe, calibration)
        notes = {layer.notes[-1].removeprefix("mixed: ") for layer in quantized.layers.values()}
        assert notes == expected
        weights = [
            (layer.weight.bits, layer.weight_OI.numel())
            for layer in quantized.layers.values()
            if layer.weight is not None
        ]
        mean = sum(b * n for b, n in weights) / sum(n for _, n in weights)
        assert mean <= bits and mean > bits - 0.3


def test_kl_of_the_mix_lies_between(digits: LoadedModel) -> None:
    """And the programme's mix is better than the one it likes least, at the same cost."""
    var = digits.var
    calibration = calibration_set(var, digits.vqvae, 4, seed=0)
    labels, latents = calibration.labels_N, calibration.inputs_NLZ
    with torch.no_grad():
        exact = torch.log_softmax(var(labels, latents), -1)

    def kl(recipe: Recipe) -> float:
        with quantize_var(var, recipe, calibration).installed(var):
            found = torch.log_softmax(var(labels, latents), -1)
        return float(F.kl_div(found, exact, reduction="none", log_target=True).sum(-1).mean())

    four, mix, six = (kl(_recipe(budget={"bits": b}, samples=2)) for b in (4.0, 5.0, 6.0))
    assert six < 0.8 * mix < 0.8 * 0.8 * four


def test_luts_and_bytes(digits: LoadedModel) -> None:
    assert multiplier_luts("E2M1", "E2M1") < multiplier_luts("E2M1", "DUAL4")
    assert multiplier_luts("E2M1", "DUAL4") < multiplier_luts("E2M3", "E2M3")
    with pytest.raises(RecipeError, match="no measured array multiplies E3M2 by E2M1"):
        multiplier_luts("E3M2", "E2M1")
    low, high = multiplier_luts("E2M1", "E2M1"), multiplier_luts("E2M3", "E2M3")
    recipe = _recipe(sensitivity="zd", budget={"luts": (low + high) / 2})

    def build(*_: Any) -> Any:
        raise AssertionError("a ranking needs no quantized run")

    plan = plan_mixed(digits.var, recipe, None, build)
    assert set(plan.choices.values()) == {"fp4", "fp6"}
    assert 0.9 * (low + high) / 2 < plan.cost <= (low + high) / 2
    count = sum(p.numel() for b in digits.var.blocks for p in (
        b.attn.mat_qkv.weight, b.attn.proj.weight, b.ffn.fc1.weight, b.ffn.fc2.weight))  # fmt: skip
    everything = count * (4 + 16 / 128) / 8
    recipe = _recipe(sensitivity="zd", budget={"bytes": everything})
    plan = plan_mixed(digits.var, recipe, None, build)
    assert set(plan.choices.values()) == {"fp4"} and plan.cost == pytest.approx(everything)


def test_rankings_by_hand(digits: LoadedModel) -> None:
    weight = torch.tensor([[0.0, 0.0, 0.0, 4.0], [0.0, 0.0, 0.0, -1.0]])
    assert z_fraction(weight) == 1 / 8  # mean .375, deviation 1.5
    calibration = calibration_set(digits.var, digits.vqvae, 2, seed=0)
    datas = list(data_by_block(digits.var, calibration))
    for module, data, after in zip(digits.var.blocks, datas, datas[1:], strict=False):
        if after.x_BLC is None:
            break
        cosine = (data.x_BLC * after.x_BLC).sum(-1) / (
            data.x_BLC.norm(dim=-1) * after.x_BLC.norm(dim=-1)
        )
        assert insertion_distance(module, data) == pytest.approx(float(1 - cosine.mean()), abs=1e-4)
    recipe = _recipe(sensitivity="lim")
    assert quantize_var(digits.var, recipe, calibration).layers


def test_errors(digits: LoadedModel, tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match="mixed-fp4-fp6 needs calibration samples"):
        quantize_var(digits.var, load_recipe("mixed-fp4-fp6"))
    for change, pattern in (
        ({"budget": {"bits": 5, "luts": 20}}, "give one of bits, bytes, luts"),
        ({"budget": {"watts": 5}}, "watts"),
        ({"choices": {"a": {"qkv": {}}}}, "at least two, each naming the linears qkv, proj"),
    ):
        with pytest.raises(ValueError, match=pattern):
            _recipe(**change)
    assert load_recipe("mixed-fp4-fp6").coverage()["fc2"] == "W4A4 or W6A6"


def test_recipe_generates(digits: LoadedModel) -> None:
    quantized, errors = generated(digits, "mixed-fp4-fp6")
    assert 0.001 < errors[0] < 0.06
    assert len(quantized.layers) == 4 * digits.var.config.depth
