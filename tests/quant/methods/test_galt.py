# SPDX-License-Identifier: Apache-2.0
"""Learned factors, imported factors, format search, and the recipes of FPQVAR."""

from __future__ import annotations

import re
import tempfile
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lutvar.quant.methods import (
    CalibrationError,
    CalibrationSet,
    FakeQuantizer,
    Layer,
    QuantizerSpec,
    Recipe,
    RecipeError,
    calibration_set,
    load_recipe,
    quantize_var,
)
from lutvar.quant.methods.calibration.samples import data_by_block
from lutvar.quant.methods.layers.operations import ChannelScale, Rotation, hadamard_matrix
from lutvar.quant.methods.steps.factors import FactorsError, positive, read_factors
from lutvar.quant.methods.steps.format_search import search
from lutvar.quant.methods.steps.galt import Galt, Objective, ScaleData, balanced, learn
from lutvar.quant.models import LoadedModel, load_model
from lutvar.quant.var import generate
from lutvar.quant.var.sites import LinearSite

ROTATION = hadamard_matrix().float()


@cache
def digits() -> LoadedModel:
    return load_model("digits")


def short(name: str) -> Recipe:
    """A shipped recipe that learns for two epochs only."""
    made = load_recipe(name).model_dump()
    for step in made["steps"]:
        if step["step"] == "galt":
            step["epochs"] = 2
    return Recipe.model_validate(made)


@cache
def calibration(samples: int = 10) -> CalibrationSet:
    return calibration_set(digits().var, digits().vqvae, samples, seed=0)


def rotated(x: Tensor) -> Tensor:
    return (x.unflatten(-1, (-1, 128)) @ ROTATION).flatten(-2)


def random_case(fmt: str = "E2M1", seed: int = 0) -> tuple[Layer, list[Tensor]]:
    """A layer and inputs of four scale steps, with channels of very different size."""
    draw = torch.Generator().manual_seed(seed)
    size = torch.randn(256, generator=draw).exp()
    inputs = [torch.randn(n, 256, generator=draw) * size for n in (24, 48, 96, 160)]
    weight = torch.randn(192, 256, generator=draw) / size.sqrt()
    quantizer = FakeQuantizer(QuantizerSpec(format=fmt))
    layer = Layer(LinearSite(0, "qkv"), weight, None, activation=quantizer, weight=quantizer)
    return layer, inputs


def forward(layer: Layer, x: Tensor, s: Tensor) -> Tensor:
    """The objective as it is written in the paper's code, for autograd."""
    assert isinstance(layer.activation, FakeQuantizer) and layer.weight is not None

    def straight_through(quantizer: FakeQuantizer, x: Tensor) -> Tensor:
        """Quantized in the forward pass, identity in the backward pass."""
        return x + (quantizer(x.detach()) - x).detach()

    a = straight_through(layer.activation, rotated(x * s))
    b = straight_through(layer.weight, rotated(layer.weight_OI / s))
    return ((x @ layer.weight_OI.T - a @ b.T) ** 2).mean()


@pytest.mark.parametrize("fmt", ["E2M1", "E2M3", "DUAL4"])
def test_objective_and_gradient_are_those_of_autograd(fmt: str) -> None:
    layer, inputs = random_case()
    layer.activation = FakeQuantizer(QuantizerSpec(format=fmt))
    objective, data = Objective(layer, ROTATION), ScaleData(inputs[2], layer.weight_OI)
    logarithm = (torch.randn(256) * 0.2).requires_grad_()
    expected = forward(layer, inputs[2], logarithm.exp())
    expected.backward()
    error, slope = objective(data, logarithm.detach().exp())
    assert error == pytest.approx(float(expected.detach()), rel=2e-3)
    assert logarithm.grad is not None
    difference = (slope - logarithm.grad).norm() / logarithm.grad.norm()
    assert difference < 2e-3


def authors(layer: Layer, inputs: list[Tensor], epochs: int) -> float:
    """What the authors do: s itself from 1, AdamW at 0.01, the last iterate is kept."""
    s = torch.nn.Parameter(torch.ones(256))
    optimiser = torch.optim.AdamW([s], lr=0.01)
    for _ in range(epochs):
        for x in inputs:
            optimiser.zero_grad()
            forward(layer, x, s).backward()
            optimiser.step()
    with torch.no_grad():
        return sum(float(forward(layer, x, s)) for x in inputs) / len(inputs)


def test_learns_at_least_as_much_as_the_authors_procedure() -> None:
    """Issue: learned factors reduce the official objective at least as far, on the same data."""
    layer, inputs = random_case(seed=1)
    learned = learn(Galt(step="galt", tokens=None), layer, inputs, ROTATION)
    assert learned.after <= authors(layer, inputs, 50) < learned.before
    # What is returned is what the objective says of the factors, by its own formula.
    with torch.no_grad():
        found = sum(float(forward(layer, x, learned.s_I)) for x in inputs) / len(inputs)
    assert learned.after == pytest.approx(found, rel=2e-3)


def test_learning_improves_on_the_start() -> None:
    """On a layer of the shipped model, from factors of 1 and from the best closed form."""
    data = next(data_by_block(digits().var, calibration()))
    site, weight, _ = next(digits().var.iter_sites())
    quantizer = FakeQuantizer(QuantizerSpec(format="E2M1"))
    layer = Layer(site, weight.detach(), None, activation=quantizer, weight=quantizer)
    inputs = [x.flatten(0, -2) for x in data.by_scale(site.name)]
    objective, parts = Objective(layer, ROTATION), [ScaleData(x, layer.weight_OI) for x in inputs]
    starts = [balanced(layer.weight_OI, parts, power) for power in (0.0, 0.25, 0.5)]
    errors = [objective.mean(parts, s) for s in starts]
    assert min(errors) < 0.995 * errors[0]
    learned = learn(Galt(step="galt", start="one", epochs=10), layer, inputs, ROTATION)
    assert learned.before == errors[0] and learned.after < 0.995 * errors[0]
    learned = learn(Galt(step="galt", epochs=2), layer, inputs, ROTATION)
    assert learned.before == errors[0] and learned.after <= min(errors)


def test_their_settings_give_their_result() -> None:
    layer, inputs = random_case(seed=3)
    settings = Galt(
        step="galt", tokens=None, epochs=4, rate=0.01, schedule="constant", parameter="linear",
        start="one", last=True,
    )  # fmt: skip
    learned = learn(settings, layer, inputs, ROTATION)
    assert learned.after == pytest.approx(authors(layer, inputs, 4), rel=2e-3)


def test_runaway_factors_are_an_error() -> None:
    layer, inputs = random_case()
    settings = Galt(step="galt", epochs=3, rate=5.0, parameter="linear", start="one")
    with pytest.raises(CalibrationError, match=r"block0\.qkv: learned factors .* smaller rate"):
        learn(settings, layer, inputs, ROTATION)


def test_step_learns_under_the_rotation_that_follows() -> None:
    recipe = short("fpqvar-fp4")
    quantized = quantize_var(digits().var, recipe, calibration())
    layer = quantized.layers[LinearSite(1, "fc1")]
    assert [type(op) for op in layer.operations] == [ChannelScale, Rotation]
    found = re.fullmatch(r"galt: objective (\S+) -> (\S+), factors .*", layer.notes[0])
    assert found is not None and float(found[2]) < 0.995 * float(found[1])
    assert not quantized.layers[LinearSite(1, "proj")].operations
    # The same step under another rotation, or none, finds other factors.
    alone = quantize_var(digits().var, short("fpqvar-fp4-no-hadamard"), calibration())
    factors = [q.layers[LinearSite(1, "fc1")].operations[0] for q in (quantized, alone)]
    assert isinstance(factors[0], ChannelScale) and isinstance(factors[1], ChannelScale)
    assert not torch.allclose(factors[0].s_I, factors[1].s_I, rtol=0.05)
    again = quantize_var(digits().var, recipe, calibration())
    for site, other in again.layers.items():
        assert torch.equal(other.rounded_OI, quantized.layers[site].rounded_OI)


def test_factors_keep_the_float_function() -> None:
    recipe = short("fpqvar-fp4")
    quantized = quantize_var(digits().var, recipe, calibration())
    for site, weight, bias in digits().var.iter_sites():
        layer = quantized.layers[site]
        x = torch.randn(3, weight.shape[1])
        found = layer.prepared(x) @ layer.weight_OI.T
        assert torch.allclose(found, x @ weight.T, atol=1e-3), site
        assert layer.bias_O is not None and torch.equal(layer.bias_O, bias)


def test_few_samples_are_refused() -> None:
    with pytest.raises(CalibrationError, match="galt: 4 calibration samples; at least 8"):
        quantize_var(digits().var, load_recipe("fpqvar-fp4"), calibration(4))
    with pytest.raises(ValueError, match="sites"):
        Recipe(name="x", steps=({"step": "galt", "sites": ["proj"]},))


def test_format_search_takes_the_smallest_error() -> None:
    layer, inputs = random_case()
    formats = ("E1M2", "E2M1", "E3M0")
    errors = search(layer, inputs, formats, formats)
    assert len(errors) == 9 and layer.weight is not None
    assert isinstance(layer.activation, FakeQuantizer)
    chosen = layer.weight.format.name, layer.activation.format.name
    assert errors[chosen] == min(errors.values()) < 0.9 * max(errors.values())
    expected = []
    for x in inputs:
        exact, made = x @ layer.weight_OI.T, layer.activation(x) @ layer.weight(layer.weight_OI).T
        expected.append(float(((exact - made) ** 2).mean()))
    assert errors[chosen] == pytest.approx(sum(expected) / 4, rel=1e-5)
    with pytest.raises(RecipeError, match="FP5"):
        raise_for("{step: format-search, weights: [FP5]}")


def raise_for(step: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "r.yaml"
        path.write_text(f"name: r\nsteps: [{step}]\n")
        load_recipe(path)


def test_mixed_recipes_choose_for_each_block() -> None:
    quantized = quantize_var(digits().var, load_recipe("fp4-mixed"), calibration())
    pairs = {site: layer.notes[-1] for site, layer in quantized.layers.items()}
    assert len(pairs) == 16 and len(set(pairs.values())) > 1


def test_imported_factors(tmp_path: Path) -> None:
    torch.manual_seed(0)
    qkv = [torch.rand(128) + 0.5 for _ in range(4)]
    fc1 = [torch.rand(128) + 0.5 for _ in range(4)]
    fc1[2][5], fc1[2][6], fc1[2][7] = -0.25, 0.0, torch.nan
    both = {f"blocks.{i}.{n}": v[i] for i in range(4) for n, v in (("mat_qkv", qkv), ("fc1", fc1))}
    torch.save(both, tmp_path / "both.pth")
    torch.save(fc1, tmp_path / "lambda_fc1.pt")
    torch.save(torch.stack(qkv), tmp_path / "mat_qkv.pt")
    found = read_factors(tmp_path / "both.pth")
    assert torch.equal(found[3, "qkv"], qkv[3]) and len(found) == 8
    assert torch.equal(read_factors(tmp_path / "lambda_fc1.pt")[1, "fc1"], fc1[1])
    assert torch.equal(read_factors(tmp_path / "mat_qkv.pt")[2, "qkv"], qkv[2])
    assert [float(v) for v in positive(fc1[2][5:8], "magnitude")[0]] == [0.25, 1, 1]
    assert [float(v) for v in positive(fc1[2][5:8], "one")[0]] == [1, 1, 1]

    recipe = load_recipe("fpqvar-fp4").model_dump()
    recipe["steps"] = [{"step": "factors", "path": str(tmp_path / "both.pth")}, recipe["steps"][1]]
    quantized = quantize_var(digits().var, Recipe.model_validate(recipe))
    layer = quantized.layers[LinearSite(2, "fc1")]
    assert layer.notes == ["factors: 3 of 128 were not positive, replaced (magnitude)"]
    assert isinstance(layer.operations[0], ChannelScale)
    assert torch.equal(layer.operations[0].s_I[:5], fc1[2][:5])

    torch.save({"blocks.0.fc1": torch.ones(64)}, tmp_path / "small.pt")
    for name, message in {"small.pt": r"shape \(64,\)", "none.pt": "no such file"}.items():
        recipe["steps"][0]["path"] = str(tmp_path / name)
        recipe["steps"][0]["sites"] = ["fc1"]
        with pytest.raises(FactorsError, match=message):
            quantize_var(digits().var, Recipe.model_validate(recipe))
    torch.save({"lambda": torch.ones(4)}, tmp_path / "unnamed.pt")
    with pytest.raises(FactorsError, match="does not say which block"):
        read_factors(tmp_path / "unnamed.pt")
    torch.save({"fc1.0": Path("x")}, tmp_path / "code.pt")
    with pytest.raises(FactorsError, match="only tensors are read, never code"):
        read_factors(tmp_path / "code.pt")


RECIPES = [
    "fpqvar-fp4", "fpqvar-fp6", "fpqvar-fp6-official", "fpqvar-fp4-kv6", "fpqvar-fp6-kv6",
    "fpqvar-fp4-kv4", "fp4-baseline", "fp6-baseline", "fp4-mixed", "fp6-mixed",
    "fpqvar-fp4-no-dual", "fpqvar-fp4-no-hadamard", "fpqvar-fp4-no-galt",
]  # fmt: skip


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_builds_and_generates(name: str) -> None:
    recipe = load_recipe(name)
    bits = "4" if "fp4" in name else "6"
    assert recipe.coverage()["fc1"] == f"W{bits}A{bits}" and recipe.coverage()["head"] == "float"
    data = calibration() if recipe.needs_data else None
    quantized = quantize_var(digits().var, short(name), data)
    plain = generate(digits().var, digits().vqvae, [2, 7], seed=3, keep_logits=True)
    with quantized.installed(digits().var) as var:
        found = generate(var, digits().vqvae, [2, 7], seed=3, keep_logits=True)
    assert plain.logits and found.logits
    error = (found.logits[0] - plain.logits[0]).norm() / plain.logits[0].norm()
    assert (0.02 if bits == "4" else 0.003) < error < (0.5 if bits == "4" else 0.1)
