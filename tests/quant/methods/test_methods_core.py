# SPDX-License-Identifier: Apache-2.0
"""The frame of the recipes: quantizers, operations, building, installing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lutvar.contract.formats import get_format
from lutvar.quant.formats.grouping import group
from lutvar.quant.formats.quantize import quantize
from lutvar.quant.methods import (
    CalibrationError,
    FakeQuantizer,
    Layer,
    QuantizerSpec,
    Recipe,
    RecipeError,
    calibration_set,
    load_recipe,
    quantize_var,
    recipe_names,
)
from lutvar.quant.methods.calibration.samples import data_by_block
from lutvar.quant.methods.layers.operations import (
    hadamard_matrix,
    rotate,
    scale_channels,
    shift_channels,
)
from lutvar.quant.models import LoadedModel, load_model
from lutvar.quant.var import generate
from lutvar.quant.var.sites import LinearSite


@pytest.fixture(scope="module")
def digits() -> LoadedModel:
    return load_model("digits")


@pytest.mark.parametrize(
    "name", ["E2M1", "E1M2", "E3M0", "E2M3", "E3M2", "INT4", "INT6", "DUAL4", "DUAL6"]
)
def test_fake_quantizer_agrees_with_the_exact_one(name: str) -> None:
    """Off ties, float32 arithmetic decides as exact arithmetic does."""
    torch.manual_seed(0)
    x = torch.randn(64, 256) * torch.logspace(-6, 3, 64).unsqueeze(1)
    fake = FakeQuantizer(QuantizerSpec(format=name))(x)
    exact = quantize(x, get_format(name), group(128), "exact").dequantize()
    assert (~torch.isclose(fake, exact, rtol=1e-6, atol=0)).float().mean() < 1e-3
    assert (fake != x).float().mean() > 0.9
    slow = FakeQuantizer(QuantizerSpec(format=name, exact_rule="exact"))(x)
    assert torch.equal(slow, exact)


@pytest.mark.parametrize("scale", ["fp32", "fp16", "pow2", "e4m3"])
@pytest.mark.parametrize("size", [16, 32, "row", "tensor"])
def test_neighbours_bracket_the_value(scale: str, size: int | str) -> None:
    torch.manual_seed(1)
    x = torch.randn(16, 128)
    for name in ("E2M1", "E2M3", "INT4", "DUAL4"):
        quantizer = FakeQuantizer(QuantizerSpec(format=name, group=size, scale=scale))
        scales = quantizer.scales(x)
        down, up = quantizer.neighbours(x, scales)
        nearest = quantizer.apply(x, scales)
        inside = (x > nearest.amin()) & (x < nearest.amax()) & (down < up)
        assert inside.float().mean() > 0.8
        assert ((down <= x) & (x <= up) | ~inside).all() or scale != "fp32"
        assert ((nearest == down) | (nearest == up) | ~inside).all()


def test_asymmetric_and_by_sign() -> None:
    x = torch.tensor([[-1.0, 0.0, 2.0, 14.0]])
    spec = QuantizerSpec(format="INT4", group="row", asymmetric=True)
    assert FakeQuantizer(spec)(x).tolist() == [[-1.0, 0.0, 2.0, 14.0]]
    signs = FakeQuantizer(QuantizerSpec(format="INT4", group="row", by_sign=True))(x)
    assert signs.tolist() == [[-1.0, 0.0, 2.0, 14.0]]
    with pytest.raises(ValueError, match="asymmetric and by_sign need an INT format, not E2M1"):
        QuantizerSpec(format="E2M1", asymmetric=True)
    with pytest.raises(ValueError, match="groups of 128"):
        FakeQuantizer(QuantizerSpec(format="E2M1"))(x)


def test_zero_groups_stay_zero() -> None:
    for name in ("E2M1", "INT4", "DUAL4"):
        for scale in ("fp32", "fp16", "pow2", "e4m3"):
            spec = QuantizerSpec(format=name, scale=scale)
            assert not FakeQuantizer(spec)(torch.zeros(2, 128)).any()


def test_operations_keep_the_float_result() -> None:
    torch.manual_seed(2)
    layer = Layer(LinearSite(0, "qkv"), torch.randn(8, 256), torch.randn(8))
    x = torch.randn(5, 256)
    layer.finish()
    before = layer(x, 0)
    layer.rounded_OI = None
    scale_channels(layer, torch.rand(256) + 0.5)
    shift_channels(layer, torch.randn(256))
    rotate(layer, hadamard_matrix(), 42)
    layer.finish()
    assert torch.allclose(layer(x, 0), before, rtol=1e-4, atol=1e-4)
    assert [op.describe() for op in layer.operations] == [
        "channel scale", "channel shift", "rotation of 128 channels",
    ]  # fmt: skip
    with pytest.raises(ValueError, match="finite numbers above 0"):
        scale_channels(layer, torch.zeros(256))


def test_recipe_without_quantizers_changes_nothing(digits: LoadedModel) -> None:
    calibration = calibration_set(digits.var, digits.vqvae, 4, seed=0)
    recipe = Recipe(
        name="none",
        layers={"qkv": {}, "fc1": {}, "head": {}, "ada_lin": {}, "word_embed": {}},
        steps=(
            {"step": "smoothquant", "sites": ["qkv", "fc1"]},
            {"step": "hadamard", "sites": ["fc1"]},
        ),
    )
    quantized = quantize_var(digits.var, recipe, calibration)
    plain = generate(digits.var, digits.vqvae, [3, 4], seed=1, keep_logits=True)
    with quantized.installed(digits.var) as var:
        same = generate(var, digits.vqvae, [3, 4], seed=1, keep_logits=True)
    again = generate(digits.var, digits.vqvae, [3, 4], seed=1, keep_logits=True)
    assert plain.logits and same.logits and again.logits
    for a, b, c in zip(plain.logits, same.logits, again.logits, strict=True):
        assert torch.allclose(a, b, atol=1e-3) and torch.equal(a, c)
    assert not all(torch.equal(a, b) for a, b in zip(plain.logits, same.logits, strict=True))


def test_quantized_generation_differs_and_is_undone(digits: LoadedModel) -> None:
    quantized = quantize_var(digits.var, load_recipe("fpqvar-fp4-no-galt"))
    before = generate(digits.var, digits.vqvae, [1], seed=1, keep_logits=True)
    with quantized.installed(digits.var) as var:
        inside = generate(var, digits.vqvae, [1], seed=1, keep_logits=True)
    after = generate(digits.var, digits.vqvae, [1], seed=1, keep_logits=True)
    assert before.logits and inside.logits and after.logits
    assert torch.equal(before.logits[-1], after.logits[-1])
    error = (inside.logits[0] - before.logits[0]).norm() / before.logits[0].norm()
    assert 0.01 < error < 0.5


def test_calibration_walk_sees_what_the_model_computes(digits: LoadedModel) -> None:
    var = digits.var
    calibration = calibration_set(var, digits.vqvae, 3, seed=5)
    blocks = list(data_by_block(var, calibration))
    assert len(blocks) == var.config.depth + 1
    labels = torch.cat((calibration.labels_N, torch.full((3,), 10)))
    with torch.no_grad():
        logits = var(labels, calibration.inputs_NLZ.repeat(2, 1, 1))
        assert torch.allclose(var.head(blocks[-1].inputs["head"]), logits, atol=1e-5)
    assert [tuple(x.shape[:2]) for x in blocks[0].by_scale("fc2")] == [
        (6, 1),
        (6, 4),
        (6, 9),
        (6, 16),
    ]


def test_errors_name_the_key(digits: LoadedModel, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="unknown recipe 'nope'; shipped: "):
        load_recipe("nope")
    cases = {
        "layers: {qvk: {}}": r"layers\.qvk: unknown key; valid keys: qkv, proj, fc1, ",
        "layers: {qkv: {weight: {format: FP5}}}": r"layers\.qkv\.weight\.format.*FP5",
        "layers: {qkv: {weigth: {}}}": r"layers\.qkv\.weigth: unknown key",
        "steps: [{step: magic}]": "unknown step 'magic'; known: ",
        "steps: [{step: hadamard, sise: 4}]": "step 'hadamard': sise: unknown key",
        "colour: red": "colour: unknown key",
    }
    for text, pattern in cases.items():
        path = tmp_path / "r.yaml"
        path.write_text(f"name: r\n{text}\n")
        with pytest.raises(RecipeError, match=pattern):
            load_recipe(path)
    recipe = Recipe(name="s", layers={"qkv": {}}, steps=({"step": "smoothquant"},))
    with pytest.raises(CalibrationError, match="recipe s needs calibration samples"):
        quantize_var(digits.var, recipe)
    with pytest.raises(RecipeError, match="shared_ada: this model has AdaLN of each block"):
        quantize_var(digits.var, Recipe(name="s", layers={"shared_ada": {}}))


def test_every_shipped_recipe_loads() -> None:
    assert recipe_names()
    for name in recipe_names():
        assert load_recipe(name).name == name
