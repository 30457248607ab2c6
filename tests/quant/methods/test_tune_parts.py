# SPDX-License-Identifier: Apache-2.0
"""Tuning of some linears only, and by changes of low rank, against what is left as it was."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from lutvar.quant.methods import (
    CalibrationSet,
    FakeQuantizer,
    Layer,
    QuantizedVar,
    QuantizerSpec,
    calibration_set,
    load_recipe,
    quantize_var,
)
from lutvar.quant.methods.calibration.samples import replay
from lutvar.quant.methods.layers.grid import grid_weight
from lutvar.quant.methods.recipes.specs import TuneSpec
from lutvar.quant.methods.recipes.student import TunedLayer
from lutvar.quant.methods.recipes.tune import mean_kl, tune
from lutvar.quant.models import LoadedModel, load_model
from lutvar.quant.var.sites import LinearSite


@pytest.fixture(scope="module")
def digits() -> LoadedModel:
    return load_model("digits")


def samples(model: LoadedModel, seed: int) -> CalibrationSet:
    return calibration_set(model.var, model.vqvae, 8, seed=seed)


def untuned(model: LoadedModel, name: str, given: CalibrationSet) -> QuantizedVar:
    recipe = load_recipe(name).model_copy(update={"tune": None})
    return quantize_var(model.var, recipe, given)


def divergence(model: LoadedModel, quantized: QuantizedVar, given: CalibrationSet) -> float:
    exact = torch.cat(replay(model.var, given), 1)
    with quantized.installed(model.var) as var:
        return float(mean_kl(exact, torch.cat(replay(var, given), 1)))


def changed(before: QuantizedVar, after: QuantizedVar) -> set[str]:
    """Names of the linears whose integers, scales or biases are others."""
    return {
        site.name
        for site, layer in before.layers.items()
        if not torch.equal(layer.current(), after.layers[site].current())
        or not torch.equal(layer.bias_O, after.layers[site].bias_O)  # type: ignore[arg-type]
    }


def test_only_the_named_linears_are_tuned(digits: LoadedModel) -> None:
    """QuEST's selection: AdaLN and attention; the others keep every bit."""
    given = samples(digits, 0)
    plain = untuned(digits, "quest-w4a4", given)
    spec = TuneSpec(steps=20, batch=8, sites=("ada_lin", "proj"), weights=0.01)
    made = tune(plain, digits.var, given, spec)
    assert changed(plain, made) == {"ada_lin", "proj"}
    assert divergence(digits, made, given) < 0.95 * divergence(digits, plain, given)


def test_changes_of_low_rank(digits: LoadedModel) -> None:
    """Integers move, stay integers, and the divergence that is trained falls."""
    given = samples(digits, 0)
    plain = untuned(digits, "efficientdm-w4a4", given)
    spec = TuneSpec(steps=30, batch=8, rank=4, weights=0.01, biases=0)
    made = tune(plain, digits.var, given, spec)
    assert divergence(digits, made, given) < 0.95 * divergence(digits, plain, given)
    moved = 0
    for site, layer in made.layers.items():
        before, after = grid_weight(plain.layers[site]), grid_weight(layer)
        assert before is not None and after is not None
        moved += int((before.integers_OI != after.integers_OI).sum())
    assert moved > 100


def test_the_change_starts_at_nothing_and_has_its_rank() -> None:
    weight_OI = torch.randn(12, 128)
    quantizer = FakeQuantizer(QuantizerSpec(format="INT4", group="row", asymmetric=True))
    layer = Layer(LinearSite(0, "fc1"), weight_OI, None, weight=quantizer)
    layer.finish()
    one = TunedLayer(layer, free_integers=True, rank=3)
    assert one.change is not None
    assert torch.equal(one.latent(), one.start_OI)  # type: ignore[arg-type]
    up_OR, down_RI = (part.requires_grad_() for part in one.change)
    grid = grid_weight(layer)
    assert grid is not None
    # Values at the ends of the grid may pass no gradient.
    inside = ((grid.integers_OI > 0) & (grid.integers_OI < 15)).float()
    loss = ((one.weight() - weight_OI).square() * inside).sum()
    gradient = torch.autograd.grad(loss, up_OR)[0]
    with torch.no_grad():
        up_OR -= 0.01 * gradient
    latent = one.latent()
    assert latent is not None
    assert int(torch.linalg.matrix_rank(latent.detach() - one.start_OI)) == 3
    # Of the gradient: that of the weight, straight through, times the other matrix.
    straight = 2 * ((one.start_OI - weight_OI) * inside) @ down_RI.mT
    assert torch.allclose(gradient, straight, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("settings", "pattern"),
    [({"rank": 4}, "give their rate, `weights`"), ({"sites": ["fc3"]}, "sites")],
)
def test_settings_that_cannot_be(settings: dict[str, Any], pattern: str) -> None:
    with pytest.raises(ValueError, match=pattern):
        TuneSpec(**settings)
