# SPDX-License-Identifier: Apache-2.0
"""Queries and keys rotated inside qkv: same function, keys whose channels are alike."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from lutvar.quant.golden.transformer import GoldenTransformer
from lutvar.quant.methods import Recipe, calibration_set, load_recipe, quantize_var
from lutvar.quant.methods.calibration.samples import replay
from lutvar.quant.methods.hardware.export import export
from lutvar.quant.models import LoadedModel, load_model
from lutvar.quant.var.passes import teacher_forced

EMPTY: dict[str, Any] = {"qkv": {}, "proj": {}}


@pytest.fixture(scope="module")
def digits() -> LoadedModel:
    return load_model("digits")


def test_the_function_stays_and_keys_turn(digits: LoadedModel) -> None:
    samples = calibration_set(digits.var, digits.vqvae, 4, seed=0)
    recipe = Recipe(name="r", layers=EMPTY, steps=({"step": "key-rotation"},))
    made = quantize_var(digits.var, recipe)
    exact = torch.cat(replay(digits.var, samples), 1)
    with made.installed(digits.var) as var:
        found = torch.cat(replay(var, samples), 1)
    assert torch.allclose(found, exact, atol=1e-3 * float(exact.abs().max()))
    qkv = next(layer for site, layer in made.layers.items() if site.name == "qkv")
    before = digits.var.blocks[0].attn.mat_qkv.weight.detach()  # type: ignore[union-attr]
    width = digits.var.config.width
    assert not torch.allclose(qkv.weight_OI[:width], before[:width], atol=1e-2)
    assert not torch.allclose(
        qkv.weight_OI[width : 2 * width], before[width : 2 * width], atol=1e-2
    )
    assert torch.equal(qkv.weight_OI[2 * width :], before[2 * width :])
    rows = before[:64].double()
    assert torch.allclose(qkv.weight_OI[:64].double().norm(dim=0), rows.norm(dim=0), rtol=1e-5), (
        "a head's rows are not rotated among themselves"
    )


def test_an_outlier_channel_costs_less_after_the_rotation(digits: LoadedModel) -> None:
    """One key channel ten times as wide: 4-bit keys by token lose less when it is spread."""
    var = load_model("digits").var
    with torch.no_grad():
        for block in var.blocks:
            qkv = block.attn.mat_qkv.weight  # type: ignore[union-attr]
            qkv[var.config.width :: 64][: var.config.heads] *= 10
    samples = calibration_set(var, digits.vqvae, 4, seed=0)
    exact = torch.cat(replay(var, samples), 1)
    attention = {"kind": "plain", "k": {"format": "INT4", "group": "row"}}
    errors = []
    for steps in ((), ({"step": "key-rotation"},)):
        recipe = Recipe(name="r", layers=EMPTY, steps=steps, attention=attention)
        with quantize_var(var, recipe).installed(var) as installed:
            errors.append(float((torch.cat(replay(installed, samples), 1) - exact).norm()))
    assert errors[1] < 0.8 * errors[0]


def test_the_accelerator_runs_it(digits: LoadedModel) -> None:
    """It is part of the weights: the exported transformer needs nothing more."""
    samples = calibration_set(digits.var, digits.vqvae, 2, seed=0)
    recipe = load_recipe("fp4-baseline")
    rotated = recipe.model_copy(update={"steps": ({"step": "key-rotation"}, *recipe.steps)})
    counts = [p * p for p in digits.var.config.patch_nums]
    tokens = list(samples.tokens_NL.split(counts, 1))
    logits = []
    for each in (recipe, rotated):
        model = export(quantize_var(digits.var, each), digits.var)
        labels = samples.labels_N.tolist()
        logits.append(teacher_forced(
            digits.var, digits.vqvae, GoldenTransformer(model), labels, tokens))  # fmt: skip
    apart = float((logits[0] - logits[1]).norm() / logits[0].norm())
    assert 0 < apart < 0.3


def test_a_recipe_without_qkv_is_refused(digits: LoadedModel) -> None:
    recipe = Recipe(name="r", layers={"fc1": {}}, steps=({"step": "key-rotation"},))
    with pytest.raises(ValueError, match="the recipe does not name qkv"):
        quantize_var(digits.var, recipe)
