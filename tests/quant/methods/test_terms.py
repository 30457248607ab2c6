# SPDX-License-Identifier: Apache-2.0
"""Operands in two terms in recipes: which linears, what steps make of them, files, export."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lutvar.contract.quant_preset import load_quant
from lutvar.quant.methods import (
    QuantizedVar,
    Recipe,
    RecipeError,
    calibration_set,
    load_recipe,
    preset_recipe,
    quantize_var,
)
from lutvar.quant.methods.hardware.export import export, export_file
from lutvar.quant.methods.hardware.report import hardware
from lutvar.quant.methods.layers.layer import Layer
from lutvar.quant.methods.quantizers.fake import FakeQuantizer
from lutvar.quant.methods.quantizers.spec import QuantizerSpec
from lutvar.quant.methods.recipes.student import TunedLayer
from lutvar.quant.models import LoadedModel, load_model
from lutvar.quant.ptq import QuantizedTransformer, quantize_transformer
from lutvar.quant.var import Var, VarConfig
from lutvar.quant.var.sites import LinearSite

SMALL = VarConfig(
    depth=2, width=128, heads=2, patch_nums=(1, 2), num_classes=3, vocab=128, z_channels=8
)
FP4 = {"weight": {"format": "E2M1"}, "input": {"format": "E2M1"}}


def small() -> Var:
    torch.manual_seed(0)
    return Var(SMALL).eval()


def recipe(terms: dict[str, Any], **changes: Any) -> Recipe:
    """fpqvar-fp4 without learned factors, the head like fc1."""
    values = load_recipe("fpqvar-fp4-no-galt").model_dump()
    values["layers"]["head"] = FP4
    values["steps"] = [{"step": "hadamard", "sites": ["qkv", "fc1", "head"]}]
    return Recipe.model_validate(values | {"terms": terms} | changes)


def assert_same(found: QuantizedTransformer, expected: QuantizedTransformer) -> None:
    for site, layer in expected.layers.items():
        other = found.layers[site]
        assert other.terms == layer.terms, site
        for one, two in zip(other.sets, layer.sets, strict=True):
            assert np.array_equal(one.codes, two.codes), site
            assert np.array_equal(one.scales, two.scales) and one.exponent == two.exponent, site


def test_terms_of_a_block_go_before_those_of_all() -> None:
    made = recipe({"proj": [2, 1], "blocks.1.proj": [1, 2], "head": [2, 2]})
    assert made.terms_of(LinearSite(0, "proj")) == (2, 1)
    assert made.terms_of(LinearSite(1, "proj")) == (1, 2)
    assert made.terms_of(LinearSite(2, "head")) == (2, 2)
    assert made.terms_of(LinearSite(1, "qkv")) == (1, 1)


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        ({"proj": [3, 1]}, r"\[3, 1\]: terms are \[weights, inputs\], each 1 or 2"),
        ({"proj": [1]}, r"\[1\]: terms are \[weights, inputs\]"),
        ({"proj": [True, 1]}, r"\[True, 1\]: terms are"),
        ({"projection": [2, 1]}, r"terms\.projection: no such linear; name one of qkv, proj"),
        ({"blocks.01.proj": [2, 1]}, r"terms\.blocks\.01\.proj: no such linear"),
        ({"blocks.0.head": [2, 1]}, r"terms\.blocks\.0\.head: no such linear"),
        ({"ada_lin": [2, 1]}, r"terms\.ada_lin: no such linear"),
        ({"fc2": [1, 2]}, r"terms\.fc2: inputs in two terms in DUAL4, which has a scale for each"),
    ],
)
def test_refuses_terms_by_name(terms: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        recipe(terms)


def test_refuses_terms_of_what_is_not_quantized() -> None:
    values = load_recipe("fpqvar-fp4").model_dump() | {"terms": {"head": [2, 1]}}
    with pytest.raises(ValueError, match=r"terms\.head: weights in two terms, but layers\.head"):
        Recipe.model_validate(values)


def test_refuses_a_block_that_the_model_does_not_have() -> None:
    with pytest.raises(RecipeError, match=r"terms\.blocks\.2\.proj: the model has blocks 0 to 1"):
        quantize_var(small(), recipe({"blocks.2.proj": [2, 1]}))


def test_recipes_without_terms_are_written_as_before() -> None:
    assert "terms" not in load_recipe("fpqvar-fp4").model_dump_json()
    assert recipe({"head": [2, 1]}).model_dump()["terms"] == {"head": (2, 1)}


def test_two_terms_of_an_input_are_near_it() -> None:
    x = torch.randn(4, 256, generator=torch.Generator().manual_seed(1))
    spec = QuantizerSpec(format="E2M1")
    one, two = (FakeQuantizer(spec, n)(x) for n in (1, 2))
    assert torch.equal(two, one + FakeQuantizer(spec)(x - one))
    assert (two - x).norm() < 0.15 * (one - x).norm()


def test_presets_with_terms_are_recipes_to_the_last_bit(tmp_path: Path) -> None:
    var, path = small(), tmp_path / "q.safetensors"
    terms: dict[str, Any] = {"head": [2, 1], "qkv": [2, 2], "blocks.1.fc2": [2, 1]}
    values = preset_recipe(load_quant("fp4")).model_dump() | {"terms": terms}
    made = quantize_var(var, Recipe.model_validate(values))
    report = hardware(made, var)
    assert report.runs and report.preset == "fp4"
    made.save(path, var)
    expected = quantize_transformer(
        var, load_quant("fp4"), progress=False,
        terms={site: made.recipe.terms_of(site) for site in made.layers},
    )  # fmt: skip
    assert expected.layer(0, "qkv").terms == (2, 2) and expected.head.terms == (2, 1)
    assert expected.layer(0, "fc2").terms == (1, 1) and expected.layer(1, "fc2").terms == (2, 1)
    assert_same(export(made, var), expected)
    assert_same(export(QuantizedVar.load(path, var), var), expected)
    assert_same(export_file(path, var)[1], expected)


def test_files_give_the_same_layers(tmp_path: Path) -> None:
    var, path = small(), tmp_path / "q.safetensors"
    made = quantize_var(var, recipe({"proj": [2, 2], "head": [2, 1]}))
    made.save(path, var)
    loaded = QuantizedVar.load(path, var)
    x = torch.randn(1, 3, 128, generator=torch.Generator().manual_seed(2))
    for site, layer in made.layers.items():
        other = loaded.layers[site]
        assert other.terms == layer.terms == made.recipe.terms_of(site)
        assert torch.equal(other.used_OI, layer.used_OI)
        if site.name == "proj":
            assert torch.equal(other(x, 0), layer(x, 0))


@pytest.fixture(scope="module")
def digits() -> LoadedModel:
    return load_model("digits")


def test_second_order_rounding_leaves_the_rest_to_the_second_set(digits: LoadedModel) -> None:
    samples = calibration_set(digits.var, digits.vqvae, 12, seed=0)
    steps = [
        {"step": "hadamard", "sites": ["qkv", "fc1", "head"]},
        {"step": "gptq", "target": "output"},
    ]
    terms = {"proj": [2, 1]}
    one, two = (
        quantize_var(digits.var, recipe(t, steps=steps), samples).layers for t in ({}, terms)
    )
    for site in (s for s in one if s.name == "proj"):
        first, both = one[site], two[site]
        assert both.aim_OI is not None
        assert torch.equal(first.used_OI, both.rounded_OI)
        left = both.aim_OI - first.used_OI
        assert (both.aim_OI - both.used_OI).norm() < 0.2 * left.norm()
    report = hardware(QuantizedVar(recipe(terms, steps=steps), two), digits.var)
    assert report.runs


def test_a_step_that_takes_the_quantizer_away_is_named(digits: LoadedModel) -> None:
    samples = calibration_set(digits.var, digits.vqvae, 12, seed=0)
    int8 = {"weight": {"format": "INT8"}, "input": {"format": "INT8", "asymmetric": True}}
    made = recipe(
        {"proj": [1, 2]}, layers={"proj": int8}, steps=[{"step": "static-range", "sites": ["proj"]}]
    )
    with pytest.raises(RecipeError, match=r"block0\.proj: terms ask for inputs in two terms, but"):
        quantize_var(digits.var, made, samples)


def test_tuning_keeps_both_terms() -> None:
    spec = QuantizerSpec(format="E2M1")
    weight = torch.randn(8, 128, generator=torch.Generator().manual_seed(3))
    layer = Layer(LinearSite(0, "proj"), weight, None, weight=FakeQuantizer(spec, 2))
    layer.finish()
    tuned = TunedLayer(layer, free_integers=True)
    assert (tuned.weight() - layer.used_OI).norm() < 0.01 * weight.norm()
    assert tuned.latent_OI is not None
    tuned.latent_OI.requires_grad_()
    tuned.weight().sum().backward()
    assert tuned.latent_OI.grad is not None and float(tuned.latent_OI.grad.abs().sum()) > 0
    tuned.latent_OI = (tuned.latent_OI.detach() * 1.05).requires_grad_()
    done = tuned.finished()
    assert done.terms == (2, 1) and done.second_OI is not None
    assert (done.used_OI - tuned.latent_OI).norm() < 0.03 * weight.norm()
    fixed = TunedLayer(layer, free_integers=False)
    assert torch.equal(fixed.weight(), layer.used_OI)
    assert torch.equal(fixed.finished().used_OI, layer.used_OI)
