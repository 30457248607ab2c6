# SPDX-License-Identifier: Apache-2.0
"""What recipes need of hardware, and the export of those that the accelerator runs."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import linear

from lutvar.contract.quant_preset import load_quant
from lutvar.quant.golden.distance import relative_error
from lutvar.quant.golden.linear import GoldenLinear
from lutvar.quant.golden.transformer import GoldenTransformer
from lutvar.quant.methods import (
    CalibrationSet,
    FakeQuantizer,
    QuantizedVar,
    QuantizerSpec,
    Recipe,
    calibration_set,
    load_recipe,
    quantize_var,
)
from lutvar.quant.methods.calibration.samples import data_by_block
from lutvar.quant.methods.hardware.export import export
from lutvar.quant.methods.hardware.report import hardware
from lutvar.quant.methods.layers.grid import grid_weight, values
from lutvar.quant.methods.layers.layer import Layer
from lutvar.quant.methods.layers.operations import ChannelScale
from lutvar.quant.models import LoadedModel, load_model
from lutvar.quant.ptq import QuantizationError, quantize_transformer
from lutvar.quant.var import generate
from lutvar.quant.var.passes import teacher_forced
from lutvar.quant.var.sites import LinearSite


@cache
def digits() -> LoadedModel:
    return load_model("digits")


@cache
def calibration() -> CalibrationSet:
    return calibration_set(digits().var, digits().vqvae, 10, seed=0)


def made(name: str, **changes: Any) -> QuantizedVar:
    values = load_recipe(name).model_dump()
    for step in values["steps"]:
        if step["step"] == "galt":
            step["epochs"] = 1
    recipe = Recipe.model_validate(values | changes)
    return quantize_var(digits().var, recipe, calibration() if recipe.needs_data else None)


ROW6 = {"format": "E2M3", "group": "row"}
#: Everything that the accelerator quantizes.
WHOLE: dict[str, Any] = {
    "attention": {"kind": "plain", "q": ROW6, "k": ROW6, "v": ROW6, "keep_length": True}
}


def logits_of(quantized: QuantizedVar | None, tokens: list[Tensor]) -> Tensor:
    """Conditional logits of the fake-quantized model with tokens given, scale by scale."""
    var, vqvae = digits().var, digits().vqvae
    inputs = vqvae.quantize.teacher_inputs(tokens)
    parts = inputs.split([p * p for p in var.config.patch_nums[1:]], 1)

    def run() -> Tensor:
        cond, cache, found = var.condition(torch.tensor([3, 8])), var.new_cache(), []
        for i in range(len(var.config.patch_nums)):
            if var.step_hook is not None:
                var.step_hook(i)
            p = var.config.patch_nums[i]
            x = var.first_input(cond)
            if i:
                x = var.next_input(i, parts[i - 1].transpose(1, 2).unflatten(2, (p, p)))
            found.append(var.scale_logits(x, cond, cache))
        return torch.cat(found, 1)

    with torch.no_grad():
        if quantized is None:
            return run()
        with quantized.installed(var):
            return run()


class Halved:
    """Rounds to FP16."""

    def __call__(self, x: Tensor) -> Tensor:
        return x.half().float()

    def describe(self) -> str:
        return "rounding to FP16"


@pytest.mark.parametrize("name", ["fpqvar-fp4", "fpqvar-fp6", "best-fp4"])
def test_golden_model_of_the_export_is_close_to_the_recipe(name: str) -> None:
    layers = load_recipe(name).model_dump()["layers"]
    layers["head"] = layers["fc1"]
    steps = [{"step": "galt", "epochs": 1}, {"step": "hadamard", "sites": ["qkv", "fc1", "head"]}]
    tune = None
    if name == "best-fp4":
        shift = {"step": "mean-shift", "sites": ["qkv", "proj", "fc1", "head"]}
        steps = [shift, {"step": "head-balance"}, *steps, {"step": "gptq", "target": "output"}]
        tune = {"steps": 3, "batch": 8}
    quantized = made(name, layers=layers, steps=steps, tune=tune, **WHOLE)
    report = hardware(quantized, digits().var)
    assert report.runs and report.preset == name[-3:] and not report.added
    exported = export(quantized, digits().var)
    tokens = generate(digits().var, digits().vqvae, [3, 8], seed=1).tokens
    golden = teacher_forced(
        digits().var, digits().vqvae, GoldenTransformer(exported), [3, 8], tokens
    )
    fake, exact = logits_of(quantized, tokens), logits_of(None, tokens)
    # A decision that falls the other way is felt everywhere after it, so that rounding every
    # linear's input to FP16 moves the logits nearly as far as quantization does. The golden
    # model, which does that rounding, must not be much further away.
    for layer in quantized.layers.values():
        layer.operations.insert(0, Halved())
    moved = relative_error(fake, logits_of(quantized, tokens))
    apart = relative_error(fake, golden)
    assert apart < 1.6 * moved and apart < 1.3 * relative_error(exact, fake)


@pytest.mark.parametrize("name", ["fpqvar-fp4", "fpqvar-fp6"])
def test_layers_of_the_export_compute_what_the_recipe_does(name: str) -> None:
    """On the same input the two differ by roundings to FP16 and the decisions that these turn."""
    quantized = made(name)
    exported = export(quantized, digits().var)
    data = next(data_by_block(digits().var, calibration()))
    for site, weight, bias in digits().var.iter_sites():
        if site.block == 0:
            x, ours = data.inputs[site.name].flatten(0, -2), quantized.layers[site]
            expected = ours(x, 0)
            for operation in ours.operations:  # the norm's vectors contain these
                x = operation(x) if isinstance(operation, ChannelScale) else x
            found = torch.from_numpy(GoldenLinear(exported.layers[site])(x).y)
            x = data.inputs[site.name].flatten(0, -2)
            lost = relative_error(linear(x, weight, bias).detach(), expected)
            assert 0 < relative_error(expected, found) < 0.2 * lost, site


def test_export_has_the_codes_and_factors_of_the_recipe() -> None:
    quantized = made("fpqvar-fp4")
    site = LinearSite(2, "fc1")
    layer = quantized.layers[site]
    # Another rounding than to nearest must arrive as it is.
    assert layer.rounded_OI is not None and layer.weight is not None
    scales = layer.weight.scales(layer.weight_OI)
    layer.rounded_OI = layer.weight.neighbours(layer.weight_OI, scales)[0]
    exported = export(quantized, digits().var)
    found = exported.layers[site].dequantized()
    assert torch.allclose(found, layer.rounded_OI, rtol=1e-3, atol=1e-6)
    plain = quantize_transformer(digits().var, load_quant("fp4"), progress=False)
    assert not np.array_equal(exported.layers[site].codes, plain.layers[site].codes)
    factor = exported.factors[site]
    assert np.allclose(factor, layer.operations[0].s_I.numpy())  # type: ignore[attr-defined]
    ratio = exported.class_vectors(1).block(2, "scale2").astype(np.float32)
    ratio = ratio / plain.class_vectors(1).block(2, "scale2")
    assert np.allclose(ratio, factor, rtol=2e-3)
    assert {s.name for s in exported.factors} == {"qkv", "fc1"}
    # Without learning, codes are those of the preset.
    same = export(made("fpqvar-fp4-no-galt"), digits().var)
    for key, one in same.layers.items():
        differ = (one.codes != plain.layers[key].codes).mean()
        assert differ < 1e-3, key


def test_report_names_what_is_missing() -> None:
    var = digits().var
    report = hardware(made("fpqvar-fp4-kv6"), var)
    assert report.runs and report.kv_format == "E2M3" and report.preset == "fp4"
    assert [note.split(":")[0] for note in report.added] == ["head", "attention"]
    assert hardware(made("fpqvar-fp4-kv4"), var).kv_format == "E2M1"
    assert report.bits_per_weight == 4.125
    heads = var.head.weight.numel()
    blocks = sum(weight.numel() for _, weight, _ in var.iter_sites())
    expected = (4.125 * blocks + 16 * heads) / (blocks + heads) / 8
    assert report.bytes_per_weight == pytest.approx(expected)
    (array,) = report.multipliers
    assert array.inputs == ("E2M1", "DUAL4") and 8 < array.luts["da"] < array.luts["table"] < 20

    report = hardware(made("fpqvar-fp6-official"), var)
    assert not report.runs and report.bits_per_weight == pytest.approx(6 + 16 * 9 / (12 * 128))
    assert any("weight: one scale for a row; the accelerator has groups of 128" in m
               for m in report.missing)  # fmt: skip
    report = hardware(made("fpqvar-fp4-no-hadamard"), var)
    assert not report.runs and not report.missing and report.unshipped
    assert "qkv E2M1, proj" in report.unshipped
    assert export(made("fpqvar-fp4-no-hadamard"), var).config.name == "fpqvar-fp4-no-hadamard"
    report = hardware(made("fp6-baseline"), var)
    assert not report.runs and report.multipliers[0].luts == {}


@pytest.mark.parametrize(
    ("layer", "step", "message"),
    [
        ({"input": {"format": "E2M1", "clip": 0.9}}, None, "clipped at 0.9"),
        ({"input": {"format": "INT4", "asymmetric": True}}, None, "zero points"),
        ({"input": {"format": "E2M1", "group": 32, "scale": "pow2"}}, None, "groups of 32"),
        ({"input": {"format": "E2M1", "scale": "e4m3"}}, None, "e4m3 scales"),
        ({"input": None}, None, "float input"),
        ({"weight": None}, None, "float weight"),
        ({"weight": {"format": "DUAL4"}}, None, "weights in the dual format"),
        ({"input": {"format": "E3M0"}}, None, "at most one single-scale and one dual"),
        ({"weight": {"format": "INT4"}}, None, "weights in E2M1, INT4; an accelerator has one"),
        ({}, {"step": "hadamard", "size": 64}, "rotation of 64 channels that is not one signed"),
        ({}, {"step": "hadamard", "seed": 7}, "sign vectors of seeds [7, 42]"),
        (
            {},
            {"step": "smoothquant"},
            "channel factors that neither a norm nor GELU in front takes in",
        ),
    ],
)
def test_missing_hardware(layer: dict[str, Any], step: dict[str, Any] | None, message: str) -> None:
    values = load_recipe("fpqvar-fp4-no-galt").model_dump()
    values["layers"]["proj"] |= layer
    if step is not None:
        values["steps"] = [*values["steps"], step | {"sites": ["proj"]}]
    recipe = Recipe.model_validate(values)
    quantized = quantize_var(digits().var, recipe, calibration() if recipe.needs_data else None)
    report = hardware(quantized, digits().var)
    assert not report.runs
    assert any(message in item for item in report.missing), report.missing
    with pytest.raises(QuantizationError, match="does not run on the accelerator"):
        export(quantized, digits().var)


def test_low_rank_and_attention_that_do_not_exist() -> None:
    quantized = made("fpqvar-fp4-no-galt", attention={"kind": "plain", "probabilities": ROW6})
    quantized.layers[LinearSite(0, "fc2")].low_rank = torch.zeros(4, 512), torch.zeros(128, 4)
    missing = hardware(quantized, digits().var).missing
    assert "fc2 of block 0: a low-rank branch of rank 4" in missing[0]
    assert "attention: quantized probabilities" in missing[1]


@pytest.mark.parametrize(
    "spec",
    [
        {"format": "E2M1"}, {"format": "DUAL4"}, {"format": "E3M2", "group": "row"},
        {"format": "INT4", "asymmetric": True, "group": 32}, {"format": "INT6", "by_sign": True},
        {"format": "E2M1", "group": 32, "scale": "pow2"}, {"format": "INT8", "group": "tensor"},
        {"format": "E2M1", "group": 16, "scale": "e4m3"},
    ],
)  # fmt: skip
def test_grid_integers_give_the_weight_exactly(spec: dict[str, Any]) -> None:
    torch.manual_seed(0)
    weight = torch.randn(24, 256) * torch.logspace(-3, 2, 24).unsqueeze(1)
    weight[3, :128] = 0
    quantizer = FakeQuantizer(QuantizerSpec(**spec))
    layer = Layer(LinearSite(0, "qkv"), weight, None, weight=quantizer)
    layer.finish()
    found = grid_weight(layer)
    assert found is not None and layer.rounded_OI is not None
    assert torch.equal(values(quantizer, found), layer.rounded_OI)
    layer.rounded_OI = layer.rounded_OI + 1e-3
    assert grid_weight(layer) is None
    # Scales that a step chose are used, whatever the extremes are.
    layer.rounded_OI = None
    doubled = quantizer.scales(2 * weight)
    layer.weight_scales = doubled
    layer.finish()
    again = grid_weight(layer)
    assert again is not None and torch.equal(again.scales.positive, doubled.positive)
