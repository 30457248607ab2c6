# SPDX-License-Identifier: Apache-2.0
"""RepQ-ViT: fixed ranges, scale reparameterisation, logarithmic probabilities; MX and NVFP4."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from lutvar.quant.methods import (
    CalibrationError,
    FakeQuantizer,
    QuantizerSpec,
    Recipe,
    calibration_set,
    quantize_var,
)
from lutvar.quant.methods.attention.log_softmax import LogAttention, best_scale
from lutvar.quant.methods.calibration.fixed_range import FixedRange, calibrated_range, tails
from lutvar.quant.methods.quantizers.logarithmic import LogTable
from lutvar.quant.methods.steps import make_step
from lutvar.quant.models import LoadedModel, load_model
from lutvar.quant.var.sites import AttentionOperands
from support.quant.method_models import error, float_output, generated, one_layer, outliers


@pytest.fixture(scope="module")
def digits() -> LoadedModel:
    return load_model("digits")


def test_tails_are_numpys_percentiles() -> None:
    x = torch.randn(501, 7, generator=torch.Generator().manual_seed(0))
    low, high = tails(x, (0.9, 0.995, 1.0))
    for i, f in enumerate((0.9, 0.995, 1.0)):
        assert np.allclose(high[i], np.quantile(x.numpy(), f, axis=0), atol=1e-5)
        assert np.allclose(low[i], np.quantile(x.numpy(), 1 - f, axis=0), atol=1e-5)


def test_percentile_range_takes_the_best_candidate() -> None:
    """By hand: one outlier of 10,000 values is worth cutting at 4 bits."""
    x = torch.cat((torch.linspace(-1, 1, 9999), torch.tensor([40.0]))).unsqueeze(1)
    found = calibrated_range(x, 4, False)
    wide = FixedRange.between(x.amin(0), x.amax(0), 4)
    assert float(found.scale) < 0.2 < 2 < float(wide.scale)
    assert (found(x) - x).square().mean() < (wide(x) - x).square().mean()
    grid = FixedRange.between(torch.tensor([-1.0]), torch.tensor([14.0]), 4)
    assert grid(torch.tensor([-3.0, -1.2, 0.4, 0.6, 13.7, 99.0])).tolist() == [-1, -1, 0, 1, 14, 14]


def test_reparameterisation_keeps_the_function_and_the_codes() -> None:
    """One range after the step gives the codes that ranges of each channel gave before."""
    x = outliers()
    layer, block = one_layer("qkv", x)
    exact, weight = float_output(layer, x), layer.weight_OI
    channels = calibrated_range(x.flatten(0, 1), 4, True)
    make_step({"step": "repq"}).apply(block)
    prepared = layer.prepared(x)
    assert torch.allclose(float_output(layer, prepared), exact, atol=1e-4)
    assert isinstance(layer.activation, FixedRange) and layer.activation.scale.shape == (1,)
    target = layer.activation
    before = torch.round(x / channels.scale + channels.zero_point).clamp(0, 15)
    after = torch.round(prepared / target.scale + target.zero_point).clamp(0, 15)
    assert (before == after).float().mean() > 0.995
    # r moved into the weight's columns.
    ratio = channels.scale / channels.scale.mean()
    assert torch.allclose(layer.weight_OI, weight * ratio, rtol=1e-5)


def test_reparameterisation_beats_one_range() -> None:
    x = outliers()
    errors = []
    for steps in (["static-range"], ["repq"]):
        layer, block = one_layer("qkv", x, bits=6)
        exact = float_output(layer, x)
        for step in steps:
            make_step({"step": step}).apply(block)
        layer.finish()
        errors.append(error(layer, x, exact))
    assert errors[1] < 0.6 * errors[0]


def test_log_sqrt2_table_by_hand() -> None:
    table = LogTable("log-sqrt2", 4)
    assert table.values()[:4].tolist() == pytest.approx([1, 2**-0.5, 0.5, 2**-1.5])
    p = torch.tensor([1.0, 0.9, 0.7, 0.45, 1e-9, 0.0])
    assert table(p).tolist() == pytest.approx([1, 1, 2**-0.5, 0.5, 0, 0])
    code = -2 * math.log2(0.0101)  # 13.26: code 13 = 2**-7 sqrt(2)
    assert round(code) == 13
    assert float(table(torch.tensor([0.0101]))) == pytest.approx(2**-7 * math.sqrt(2))
    assert LogTable("log2", 3)(torch.tensor([0.3, 0.0079])).tolist() == pytest.approx([0.25, 2**-7])
    assert LogTable("log2", 3, scale=0.5)(torch.tensor([0.9, 0.3])).tolist() == [0.5, 0.25]


def test_best_scale_is_not_worse_than_one() -> None:
    scores = torch.randn(2, 2, 30, 30, generator=torch.Generator().manual_seed(3))
    p = torch.softmax(scores, -1)
    found, plain = best_scale("log2", p, 3), LogTable("log2", 3)
    assert (found(p) - p).square().mean() < (plain(p) - p).square().mean()


def test_attention_close_to_float_at_eight_bits(digits: LoadedModel) -> None:
    calibration = calibration_set(digits.var, digits.vqvae, 4, seed=0)
    for rule, limit in (("log-sqrt2", 0.2), ("log2", 0.25)):
        method = LogAttention({"rule": rule, "bits": 8, "operand_bits": 8}, digits.var, calibration)
        draw = torch.Generator().manual_seed(0)
        q, k, v = (torch.randn(2, 2, 9, 64, generator=draw) for _ in range(3))
        q, k = (
            torch.nn.functional.normalize(q, dim=-1) * 4,
            torch.nn.functional.normalize(k, dim=-1),
        )
        mask = torch.full((9, 9), -torch.inf).triu(1)
        exact = torch.softmax(q @ k.mT + mask, -1) @ v
        assert (
            method(0, AttentionOperands(q, k, v, mask, 1.0)) - exact
        ).norm() < limit * exact.norm()


def test_errors(digits: LoadedModel) -> None:
    x = outliers(samples=2)
    _, block = one_layer("qkv", x)
    with pytest.raises(
        CalibrationError, match=r"1 calibration sample\(s\); ranges need at least 2"
    ):
        make_step({"step": "repq"}).apply(block)
    layer, block = one_layer("qkv", outliers())
    layer.activation = FakeQuantizer(QuantizerSpec(format="E2M1", group="row"))
    with pytest.raises(
        ValueError, match=r"step repq makes integer codes of the input of block0\.qkv"
    ):
        make_step({"step": "repq"}).apply(block)
    layer, block = one_layer("qkv", outliers() * torch.inf)
    with pytest.raises(CalibrationError, match="not finite"):
        make_step({"step": "static-range"}).apply(block)
    recipe = Recipe(name="r", attention={"kind": "log-softmax"})
    with pytest.raises(CalibrationError, match="recipe r needs calibration samples"):
        quantize_var(digits.var, recipe)


@pytest.mark.parametrize("name", ["repq-w4a4", "repq-w6a6", "mxfp4", "mxfp6", "nvfp4"])
def test_recipe_generates(digits: LoadedModel, name: str) -> None:
    quantized, errors = generated(digits, name)
    assert 0.001 < errors[0] < (0.2 if "4" in name else 0.05)
    assert {site.name for site in quantized.layers} == {"qkv", "proj", "fc1", "fc2"}


def test_mx_and_nvfp4_scales_by_hand() -> None:
    """The scales are a power of two, and an E4M3 number times one number for the tensor."""
    x = torch.randn(8, 64, generator=torch.Generator().manual_seed(5)) * 3
    mx = FakeQuantizer(QuantizerSpec(format="E2M1", group=32, scale="pow2"))
    grid = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6])
    for row, group in ((0, 0), (3, 1)):
        values = x[row, 32 * group : 32 * group + 32].double().numpy()
        scale = 2.0 ** (math.floor(math.log2(np.abs(values).max())) - 2)
        near = grid[np.abs(np.abs(values)[:, None] / scale - grid).argmin(1)]
        expected = np.sign(values) * near * scale
        assert np.allclose(mx(x)[row, 32 * group : 32 * group + 32], expected)
    nv = FakeQuantizer(QuantizerSpec(format="E2M1", group=16, scale="e4m3"))
    tensor_scale = float(x.abs().max()) / (448 * 6)
    ratio = (x[0, :16].abs().max() / 6 / tensor_scale).to(torch.float8_e4m3fn).float()
    used = nv.scales(x).positive[0, 0] / 0.5  # a grid step is half a unit
    assert float(used) == pytest.approx(float(ratio) * tensor_scale, rel=1e-5)
