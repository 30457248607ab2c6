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
from lutvar.quant.methods.calibration.output_kl import OutputKl
from lutvar.quant.methods.calibration.programme import greedy, solve
from lutvar.quant.methods.calibration.samples import data_by_block, replay
from lutvar.quant.methods.layers.layer import Layer
from lutvar.quant.methods.recipes.mixed import choose, multiplier_luts, plan_mixed
from lutvar.quant.methods.recipes.sensitivity import insertion_distance, z_fraction
from lutvar.quant.methods.recipes.specs import MixedSpec
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


def _random_case(groups: int) -> tuple[dict[Any, float], dict[Any, float], dict[Any, float]]:
    draw = torch.Generator().manual_seed(groups)
    damage, costs, sizes = {}, {}, {}
    for block in range(2):
        for name in ("qkv", "proj", "fc1", "fc2"):
            site = LinearSite(block, name)  # type: ignore[arg-type]
            sizes[site] = 4.0 if name.startswith("fc") else 2.0
            for i, choice in enumerate(("w4", "w6", "w8")):
                damage[site, choice] = float(torch.rand(1, generator=draw)) / (i + 1)
                costs[site, choice] = (4 + 2 * i) * sizes[site] / 24
    return damage, costs, sizes


def _mixed(**changes: Any) -> MixedSpec:
    mixed = load_recipe("vidit-mixed-w6a6").mixed
    assert mixed is not None
    return MixedSpec.model_validate(mixed.model_dump() | changes)


def test_groups_spend_their_own_budget() -> None:
    """Each group's choice is the best of all within its share, by brute force."""
    damage, costs, sizes = _random_case(1)
    (plan,) = choose(damage, costs, sizes, _mixed())
    for names in (("qkv", "proj"), ("fc1", "fc2")):
        sites = [site for site in sizes if site.name in names]
        limit = 6.0 * sum(sizes[s] for s in sites) / sum(sizes.values())
        best = min(
            sum(damage[s, n] for s, n in zip(sites, pick, strict=True))
            for pick in itertools.product(("w4", "w6", "w8"), repeat=len(sites))
            if sum(costs[s, n] for s, n in zip(sites, pick, strict=True)) <= limit * (1 + 1e-9)
        )
        assert sum(damage[s, plan[s]] for s in sites) == pytest.approx(best)
    candidates = choose(damage, costs, sizes, _mixed(split="search"))
    assert len(candidates) > 1 and plan in candidates
    for one in candidates:
        assert sum(costs[key] for key in one.items()) <= 6.0 * (1 + 1e-6)


def test_greedy_takes_the_cheapest_damage_first() -> None:
    a, b = LinearSite(0, "qkv"), LinearSite(0, "fc1")
    damage = {(a, "w4"): 5.0, (a, "w8"): 1.0, (b, "w4"): 2.0, (b, "w8"): 1.0}
    costs = {(a, "w4"): 4.0, (a, "w8"): 8.0, (b, "w4"): 4.0, (b, "w8"): 8.0}
    assert greedy(damage, costs, 16.0) == {a: "w8", b: "w8"}
    assert greedy(damage, costs, 12.0) == {a: "w8", b: "w4"}  # 1 for 4 saved, not 4 for 4
    assert greedy(damage, costs, 8.0) == {a: "w4", b: "w4"}
    with pytest.raises(RecipeError, match="7 cannot be met; the cheapest choice costs 8"):
        greedy(damage, costs, 7.0)
    # Never better than the programme.
    damage, costs, _ = _random_case(3)
    found, best = greedy(damage, costs, 6.0), solve(damage, costs, 6.0)
    assert sum(damage[k] for k in found.items()) >= sum(damage[k] for k in best.items()) - 1e-9
    assert sum(costs[k] for k in found.items()) <= 6.0 * (1 + 1e-9)


def test_content_and_quality_are_kl_of_coarse_and_fine_scales(digits: LoadedModel) -> None:
    var = digits.var
    calibration = calibration_set(var, digits.vqvae, 2, seed=0)
    measure = OutputKl(var, calibration)
    site, weight_OI, bias_O = next(iter(var.iter_sites()))
    layer = Layer(site, weight_OI.detach() * 0.7, bias_O)
    layer.finish()
    found = {kind: measure({site: layer}, kind) for kind in ("kl", "content", "quality")}
    plain = replay(var, calibration)
    before = weight_OI.detach().clone()
    try:
        weight_OI.data.mul_(0.7)
        changed = replay(var, calibration)
    finally:
        weight_OI.data.copy_(before)
    kl = [
        (p.softmax(-1) * (p.log_softmax(-1) - q.log_softmax(-1))).sum(-1)
        for p, q in zip(plain, changed, strict=True)
    ]
    half = (len(kl) + 1) // 2
    assert found["content"] == pytest.approx(float(torch.cat(kl[:half], 1).mean()), rel=1e-3)
    assert found["quality"] == pytest.approx(float(torch.cat(kl[half:], 1).mean()), rel=1e-3)
    assert found["kl"] == pytest.approx(float(torch.cat(kl, 1).mean()), rel=1e-3)


def test_group_errors() -> None:
    one = {"sites": ["qkv", "proj"], "sensitivity": "content"}
    for change, pattern in (
        ({"groups": [one]}, "groups name qkv, proj; each of qkv, proj, fc1, fc2 must be in one"),
        ({"groups": [], "split": "search"}, "search needs two groups, not 0"),
    ):
        with pytest.raises(ValueError, match=pattern):
            _mixed(**change)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vidit-mixed-w6a6", "mixdq-w5a8"])
def test_decoupled_recipes_generate(digits: LoadedModel, name: str) -> None:
    quantized, errors = generated(digits, name)
    assert 0.001 < errors[0] < 0.06
    notes = {layer.notes[-1] for layer in quantized.layers.values()}
    assert len(notes) > 1 and all(note.startswith("mixed: w") for note in notes)
