# SPDX-License-Identifier: Apache-2.0
"""Recipes on RAR and PAR: the protocol, every shipped recipe, what is refused, files."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import cast

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from lutvar.contract.quant_preset import load_quant
from lutvar.quant.generators import TokenModel, generate_tokens
from lutvar.quant.generators.accelerator import lacks
from lutvar.quant.methods import (
    CalibrationSet,
    QuantizedFileError,
    QuantizedVar,
    RecipeError,
    load_recipe,
    prepare_calibration,
    quantize_var,
)
from lutvar.quant.methods.attention.static import StaticAttention
from lutvar.quant.methods.calibration.rows import shared_ranges
from lutvar.quant.methods.calibration.samples import data_by_block, replay
from lutvar.quant.methods.generator import VAR_ONLY, generator_of
from lutvar.quant.methods.hardware.export import export
from lutvar.quant.methods.hardware.report import hardware
from lutvar.quant.methods.quantizers.static import StaticQuantizer
from lutvar.quant.methods.recipes.build import check_model
from lutvar.quant.methods.recipes.recipe import Recipe
from lutvar.quant.methods.resumable import quantize_to_file
from lutvar.quant.ptq.transformer import quantize_transformer
from lutvar.quant.ptq.weights import QuantizationError
from lutvar.quant.var import Var
from lutvar.quant.var.sites import LinearSite
from support.quant.generator_cases import CASES, GeneratorCase, model_of
from support.quant.var_cases import CASES as VAR_CASES

FEW = CASES[:2]
by_name = pytest.mark.parametrize("case", FEW, ids=lambda case: case.name)


def small(name: str, samples: int = 16) -> Recipe:
    """A shipped recipe with fewer calibration samples."""
    recipe = load_recipe(name)
    spec = recipe.calibration.model_copy(update={"samples": samples, "steps": None})
    return recipe.model_copy(update={"calibration": spec})


def prepared(case: GeneratorCase) -> TokenModel:
    model = model_of(case)
    model.sampling = case.sampling
    return model


def calibration(model: TokenModel, recipe: Recipe) -> CalibrationSet:
    return prepare_calibration(model, None, recipe.calibration, model.sampling.cfg)


@by_name
def test_the_walk_computes_the_model(case: GeneratorCase) -> None:
    """Block by block, and pass by pass with a cache: the logits of the model itself."""
    model = prepared(case)
    samples = calibration(model, small("int4-rtn", 3))
    labels_B, tokens_BT = samples.row_data(case.config.num_classes)
    assert torch.equal(labels_B, torch.tensor([0, 1, 2, 5, 5, 5]))
    assert torch.equal(tokens_BT[:3], samples.tokens_NL)
    right = model(labels_B, tokens_BT)
    data = list(data_by_block(model, samples))
    assert len(data) == case.config.depth + 1
    head = next(w for s, w, _ in generator_of(model).linears(2) if s.name == "head")
    bias = next(b for s, _, b in generator_of(model).linears(2) if s.name == "head")
    logits = F.linear(data[-1].inputs["head"], head, bias)[:, model.lead :]
    torch.testing.assert_close(logits, right)
    passes = torch.cat(replay(model, samples), 1)[:, model.lead :]
    torch.testing.assert_close(passes, right, rtol=1e-4, atol=2e-5)
    assert data[0].inputs["fc1"].shape[1] == data[0].scales[-1][1] == model.positions


@by_name
def test_linears_have_their_roles(case: GeneratorCase) -> None:
    """By role: names, shapes, and what each of them sees."""
    model, config = prepared(case), case.config
    data = next(iter(data_by_block(model, calibration(model, small("int4-rtn", 2)))))
    names = [site.name for site, _, _ in generator_of(model).linears(0)]
    blocks = ["qkv", "proj", "fc1", "fc2"]
    assert names == (["ada_lin", *blocks] if model.family == "RAR" else blocks)
    assert set(data.inputs) == set(names)
    hidden = 2 * config.hidden if model.family == "PAR" else config.hidden
    shapes = {site.name: tuple(w.shape) for site, w, _ in generator_of(model).linears(0)}
    assert shapes["fc1"] == (hidden, config.width)
    assert shapes["fc2"] == (config.width, config.hidden)


@by_name
def test_steps_that_move_values_keep_the_function(case: GeneratorCase) -> None:
    """Without quantizers what factors, shifts and rotations leave is the float model."""
    model = prepared(case)
    recipe = Recipe.model_validate(
        {
            "name": "moves",
            "layers": {name: {} for name in ("qkv", "proj", "fc1", "fc2", "head")},
            "steps": [
                {"step": "head-rotation"},
                {"step": "mean-shift", "sites": ["qkv", "proj", "fc1"]},
                {"step": "smoothquant", "sites": ["qkv", "fc1", "head"]},
                {"step": "symmetric-shift", "sites": ["qkv", "fc1"], "bits": 6},
                {"step": "hadamard"},
            ],
            "calibration": {"samples": 20},
        }
    )
    right = drawn(case, model)
    with quantize_var(model, recipe, calibration(model, recipe)).installed(model) as lent:
        torch.testing.assert_close(drawn(case, lent), right, rtol=1e-3, atol=1e-3)


def test_ranges_follow_regions_and_sink_tokens() -> None:
    rar, par = generator_of(prepared(CASES[0])), generator_of(prepared(CASES[1]))
    assert shared_ranges("scale", rar.regions, rar.sink) == (0, 1, 2)
    assert shared_ranges("sink", rar.regions, rar.sink) == (0, 1, 2)
    assert shared_ranges("scale", par.regions, par.sink) == (0, 1, 2, 3, 4, 5)
    assert shared_ranges("tensor", par.regions, par.sink) == (0,)
    assert shared_ranges("pass", rar.regions, rar.sink) == tuple(range(17))
    var = generator_of(Var(VAR_CASES[0].var))
    assert shared_ranges("scale", var.regions, var.sink) == (0, 1, 2, 3)
    assert shared_ranges("sink", var.regions, var.sink) == (0, 1)


def drawn(case: GeneratorCase, model: TokenModel) -> Tensor:
    """Guided logits of the first token, which do not depend on tokens drawn before."""
    result = generate_tokens(model, case.labels, 0, case.sampling, keep_logits=True)
    assert result.logits_BTV is not None
    return result.logits_BTV[:, 0]


#: Recipe -> relative error of the first guided logits that these small random models stay below.
RUN = {
    "int4-rtn": 0.6, "int6-rtn": 0.2, "int8-rtn": 0.03, "smoothquant-w6a6": 0.2,
    "gptq-int4": 0.5, "fpqvar-fp4-no-galt": 0.7, "fp6-baseline": 0.2,
    "quarot-w4a4": 1.0, "svdquant-w4a4": 0.8, "repq-w6a6": 0.6,
}  # fmt: skip


@by_name
@pytest.mark.parametrize("name", RUN)
def test_recipes_run(case: GeneratorCase, name: str) -> None:
    model, recipe = prepared(case), small(name)
    samples = calibration(model, recipe) if recipe.needs_data else None
    right = drawn(case, model)
    quantized = quantize_var(model, recipe, samples)
    with quantized.installed(model) as lent:
        found = drawn(case, lent)
    error = float((found - right).norm() / right.norm())
    assert 0 < error < RUN[name], error
    assert torch.equal(drawn(case, model), right)  # and nothing is left behind


@pytest.mark.parametrize(
    ("case", "name", "pairs"),
    [
        (CASES[0], "ptq4arvg-w6a6", {"qkv": 3, "proj": 3, "ada_lin": 1, "head": 1}),
        (CASES[0], "ptq4arvg-rar-w6a6", {"qkv": 3, "proj": 3, "ada_lin": 17, "head": 1}),
        (CASES[1], "ptq4arvg-par-w6a6", {"qkv": 6, "proj": 6, "head": 1}),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_ptq4arvg(case: GeneratorCase, name: str, pairs: dict[str, int]) -> None:
    """Static ranges by region; a sink token's range is that of its own values."""
    model, recipe = prepared(case), small(name)
    quantized = quantize_var(model, recipe, calibration(model, recipe))
    for site, layer in quantized.layers.items():
        if site.name in pairs:
            assert isinstance(layer.activation, StaticQuantizer)
            assert len(layer.activation.scale_S) == pairs[site.name], site
    right = drawn(case, model)
    with quantized.installed(model) as lent:
        error = float((drawn(case, lent) - right).norm() / right.norm())
    assert 0 < error < 0.3, error


def test_probabilities_of_par_are_powers_of_the_root_of_two(tmp_path: Path) -> None:
    case = CASES[1]
    model, recipe = prepared(case), small("ptq4arvg-par-w6a6")
    quantized = quantize_var(model, recipe, calibration(model, recipe))
    method = quantized.attention
    assert isinstance(method, StaticAttention) and set(method.tables) == {0, 1}
    table = method.tables[0]
    assert 0.3 < table.scale <= 1.0
    p = torch.linspace(0.05, 1, 50)
    steps = 2 * torch.log2(table(p) / table.scale)
    torch.testing.assert_close(steps, steps.round(), rtol=0, atol=1e-4)
    assert float((table(p) / p).log2().abs().max()) < 0.25 + 2 * abs(math.log2(table.scale))
    quantized.save(tmp_path / "q.safetensors", model)
    again = QuantizedVar.load(tmp_path / "q.safetensors", model).attention
    assert isinstance(again, StaticAttention) and again.tables == method.tables
    with pytest.raises(ValueError, match="order network finds uniform ranges"):
        Recipe(
            name="x",
            attention={"kind": "static", "order": "network", "probability_codes": "log-sqrt2"},
        )


def test_a_sink_tokens_range_is_its_own() -> None:
    """RAR's position 0 holds the same learned token in every sample."""
    case = CASES[0]
    model = prepared(case)
    with torch.no_grad():
        model.state_dict()["cls_token"].mul_(30)
    recipe = small("ptq4arvg-w6a6")
    quantized = quantize_var(model, recipe, calibration(model, recipe))
    fc2 = quantized.layers[LinearSite(0, "proj")].activation
    assert isinstance(fc2, StaticQuantizer)
    assert fc2.scale_S.unique().numel() == 3


@by_name
def test_what_a_model_lacks_is_one_line(case: GeneratorCase) -> None:
    model = prepared(case)
    reasons = {
        "shift-and-sum-w4a4": r"layers\.word_embed: ... looks its tokens up in a table; leave it",
        "best-fp4": "tune: not for a ... model: the student runs VAR scale by scale",
        "omniquant-w4a4": "step omniquant: not for a ... model: trains through VAR's block",
        "brecq-w4a4": "step brecq: not for a ... model",
        "ias-w4a4": "step ias: not for a ... model",
        "mixed-fp4-fp6": "mixed: not for a ... model: budget and sensitivity count VAR's",
    }
    if model.family == "PAR":
        reasons["ptq4arvg-w6a6"] = r"layers\.ada_lin: PAR has no AdaLN; leave it out"
    for name, text in reasons.items():
        with pytest.raises(RecipeError, match=text):
            check_model(model, load_recipe(name))
    wrong = Recipe(name="x", attention={"kind": "plain", "share_halves": True})
    with pytest.raises(RecipeError, match=r"attention\.share_halves: not for a"):
        quantize_var(model, wrong)
    moved = Recipe(name="x", attention={"kind": "shift-and-sum", "v": {"format": "INT4"}})
    with pytest.raises(RecipeError, match=r"attention\.kind shift-and-sum: not for a"):
        quantize_var(model, moved)
    for step in ("key-rotation", "reconstruct"):
        other = Recipe(name="x", layers={"qkv": {}}, steps=({"step": step},))
        with pytest.raises(RecipeError, match=f"step {step}: not for a"):
            quantize_var(model, other)
    assert all(reason and not reason.endswith(".") for reason in VAR_ONLY.values())


@by_name
def test_a_file_belongs_to_its_model(case: GeneratorCase, tmp_path: Path) -> None:
    model, recipe, path = prepared(case), small("gptq-int4"), tmp_path / "q.safetensors"
    report = quantize_to_file(model, None, recipe, path, sampling=(case.sampling.cfg, 0, 0.0))
    assert not report.runs and set(lacks(case.config)) <= set(report.missing)
    loaded = QuantizedVar.load(path, model)
    direct = quantize_var(model, recipe, calibration(model, recipe))
    with loaded.installed(model) as lent:
        first = drawn(case, lent)
    with direct.installed(model) as lent:
        assert torch.equal(drawn(case, lent), first)
    assert hardware(loaded, model).missing == report.missing
    with torch.no_grad():
        model.state_dict()["blocks.0.attn.qkv.weight"][0, 0] += 1
    with pytest.raises(QuantizedFileError, match="load the model that was quantized"):
        QuantizedVar.load(path, model)


def test_nothing_is_written_when_a_recipe_does_not_fit(tmp_path: Path) -> None:
    model, path = prepared(CASES[1]), tmp_path / "q.safetensors"
    with pytest.raises(RecipeError, match="PAR has no AdaLN"):
        quantize_to_file(model, None, small("ptq4arvg-w6a6"), path)
    assert list(tmp_path.iterdir()) == []


@by_name
def test_code_level_refuses_the_model(case: GeneratorCase) -> None:
    """What `pack` and the compiler stand on: the list of what the accelerator lacks."""
    model = prepared(case)
    missing = lacks(case.config)[0]
    with pytest.raises(QuantizationError, match=re.escape(missing)):
        quantize_transformer(cast(Var, model), load_quant("fp4"), progress=False)
    quantized = quantize_var(model, small("fp6-baseline"))
    with pytest.raises(QuantizationError, match=re.escape(missing)):
        export(quantized, cast(Var, model))
