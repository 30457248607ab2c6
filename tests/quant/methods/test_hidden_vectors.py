# SPDX-License-Identifier: Apache-2.0
"""Factors and shifts behind GELU: from steps at fc2 to the vectors that the accelerator reads."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from lutvar.contract.passes import ImageStep
from lutvar.quant.golden import pointwise
from lutvar.quant.golden.backend import GoldenBackend
from lutvar.quant.golden.transformer import GoldenTransformer
from lutvar.quant.methods import CalibrationSet, Recipe, load_recipe, quantize_var
from lutvar.quant.methods.calibration.samples import calibration_set, data_by_block
from lutvar.quant.methods.hardware.export import export
from lutvar.quant.methods.hardware.report import hardware
from lutvar.quant.methods.layers.operations import ChannelScale, ChannelShift, channel_affine
from lutvar.quant.methods.recipes.quantized_var import QuantizedVar
from lutvar.quant.models import LoadedModel, load_model
from lutvar.quant.ptq import QuantizationError, quantize_transformer
from lutvar.quant.ptq.model import QuantizedModel
from lutvar.quant.var.sites import LinearSite

SITE = LinearSite(1, "fc2")


@cache
def digits() -> LoadedModel:
    return load_model("digits")


@cache
def samples() -> CalibrationSet:
    info = digits().info
    return calibration_set(
        digits().var, digits().vqvae, 16, seed=3, cfg=info.cfg, top_k=info.top_k, top_p=info.top_p
    )


def recipe(name: str = "fpqvar-fp4-single", outliers: bool = False) -> Recipe:
    """A shipped recipe with few steps of learning."""
    loaded = load_recipe(name)
    steps = tuple(
        s | {"epochs": 2, "tokens": 64} if s["step"] == "galt" else s for s in loaded.steps
    )
    loaded = loaded.model_copy(update={"steps": steps})
    return loaded.with_outliers(5) if outliers else loaded


@cache
def inputs() -> torch.Tensor:
    """What fc2 of block 1 sees in the float model, [B, L, I]."""
    for index, data in enumerate(data_by_block(digits().var, samples(), False)):
        if index == SITE.block:
            return data.inputs["fc2"]
    raise AssertionError("no such block")


@cache
def quantized(name: str = "fpqvar-fp4-single", outliers: bool = False) -> QuantizedVar:
    return quantize_var(digits().var, recipe(name, outliers), samples())


def test_vectors_are_fp16_and_the_function_stays() -> None:
    layer = quantized().layers[SITE]
    assert [type(op) for op in layer.operations[:2]] == [ChannelScale, ChannelShift]
    scale_I, shift_I = channel_affine(layer)
    assert scale_I is not None and shift_I is not None
    for vector in (scale_I, shift_I):
        assert torch.equal(vector, vector.half().float())
    _, weight_OI, bias_O = next(s for s in digits().var.iter_sites() if s[0] == SITE)
    x = torch.randn(40, weight_OI.shape[1], generator=torch.Generator().manual_seed(1))
    found = F.linear(layer.prepared(x), layer.weight_OI, layer.bias_O)
    assert torch.allclose(found, F.linear(x, weight_OI, bias_O), atol=2e-4)


def test_golden_model_computes_what_the_recipe_does() -> None:
    """Hidden values of the golden model are those of the layer, to the rounding of FP16."""
    model = export(quantized(), digits().var)
    assert hardware(quantized(), digits().var).preset == model.config.name == "fp4-single"
    layer = quantized().layers[SITE]
    y = np.random.default_rng(0).normal(0, 2, (30, 512)).astype(np.float32)
    factor, shift = (model.hidden_vector(1, name) for name in ("factor", "shift"))
    assert factor is not None and shift is not None
    h = pointwise.gelu(y, factor, shift)
    plain = pointwise.gelu(y).astype(np.float32)
    want = torch.from_numpy(plain) * channel_affine(layer)[0] + channel_affine(layer)[1]
    assert np.allclose(h.astype(np.float32), want, rtol=2e-3, atol=2e-3)
    golden = GoldenBackend(QuantizedModel(model.config, model.layers))
    found = golden.compute(SITE, h.astype(np.float32)).y
    fake = layer(torch.from_numpy(plain).unsqueeze(0), 0)[0].numpy()
    noise = np.linalg.norm(found - fake) / np.linalg.norm(fake)
    assert noise < 0.06  # codes beside a decision point may differ, nothing else does


def test_golden_transformer_uses_the_vectors() -> None:
    model = export(quantized(), digits().var)
    seen: dict[str, np.ndarray] = {}
    golden = GoldenTransformer(model, trace=lambda name, value: seen.__setitem__(name, value))
    x = np.random.default_rng(2).normal(size=(1, 128)).astype(np.float32)
    golden.run([ImageStep(0, 3, 0, x, None)])
    vectors = (model.hidden_vector(1, name) for name in ("factor", "shift"))
    factor, shift = vectors
    want = pointwise.gelu(seen["block1.fc1.y"], factor, shift)
    assert np.array_equal(seen["block1.gelu"].view(np.uint16), want.view(np.uint16))


@torch.no_grad()
def test_outliers_keep_the_function_and_factors_repair_them() -> None:
    """Widened channels: the dual format loses, learned factors take them back."""
    noise = {}
    for name in ("fpqvar-fp4", "fpqvar-fp4-single"):
        for outliers in (False, True):
            layer = quantized(name, outliers).layers[SITE]
            first = layer.operations[0] if layer.operations else None
            if name == "fpqvar-fp4" and outliers:
                assert isinstance(first, ChannelScale)
                factors = first.s_I
                assert set(factors.log2().tolist()) <= {0.0, 2.0, 3.0, 4.0, 5.0, 6.0}
                assert int((factors != 1).sum()) == round(0.01 * len(factors))
            x = inputs()
            _, weight_OI, bias_O = next(s for s in digits().var.iter_sites() if s[0] == SITE)
            exact = F.linear(x, weight_OI, bias_O)
            error = layer(x, 0) - exact
            noise[name, outliers] = float(error.square().sum() / exact.square().sum())
    assert noise["fpqvar-fp4", True] > 1.5 * noise["fpqvar-fp4", False]
    assert noise["fpqvar-fp4-single", True] < 1.2 * noise["fpqvar-fp4-single", False]


def test_outliers_are_cancelled() -> None:
    """What widens a channel is in its factor: the accelerator's image is the same but for roots
    that round in float32."""
    plain, wide = (export(quantized(outliers=o), digits().var) for o in (False, True))
    for site, layer in plain.layers.items():
        other = wide.layers[site]
        assert np.mean(layer.codes != other.codes) < 1e-3, site
        assert np.mean(layer.scales != other.scales) < 1e-2, site
        assert np.allclose(layer.bias, other.bias, rtol=1e-4, atol=1e-6), site
    for block in range(plain.shape.depth):
        for name in ("factor", "shift"):
            first, second = (model.hidden_vector(block, name) for model in (plain, wide))
            assert first is not None and second is not None
            assert np.allclose(first, second, rtol=2e-3), (block, name)


@pytest.mark.parametrize("steps", [
    [{"step": "galt", "sites": ["fc2"], "epochs": 1, "tokens": 64}],
    [{"step": "galt", "sites": ["fc2"], "epochs": 1, "tokens": 64},
     {"step": "mean-shift", "sites": ["fc2"]}],
    [{"step": "mean-shift", "sites": ["fc2"]}],
])  # fmt: skip
def test_each_vector_alone_and_in_another_order(steps: list[dict]) -> None:
    shipped = recipe()
    kept = tuple(s for s in shipped.steps if s["step"] not in ("smoothquant", "mean-shift"))
    made = quantize_var(
        digits().var, shipped.model_copy(update={"steps": (*steps, *kept)}), samples()
    )
    model = export(made, digits().var)
    for name, step in (("factor", "galt"), ("shift", "mean-shift")):
        found = model.hidden_vector(1, name)
        assert (found is not None) == any(s["step"] == step for s in steps)
        part = channel_affine(made.layers[SITE])[name == "shift"]
        assert found is None or np.array_equal(found, part.numpy())


def test_factors_that_fp16_does_not_hold_are_refused() -> None:
    factors = {SITE: np.full(512, 1e6, np.float32)}
    with pytest.raises(QuantizationError, match="channel factor reaches 1e\\+06; FP16 ends"):
        quantize_transformer(
            digits().var, export(quantized(), digits().var).config, factors=factors, progress=False
        )
