# SPDX-License-Identifier: Apache-2.0
"""I&S-ViT: shift-uniform-log2 and the three stages; NoisyQuant; ViDiT-Q's balance."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from lutvar.quant.methods import CalibrationError, calibration_set
from lutvar.quant.methods.calibration.fixed_range import FixedRange
from lutvar.quant.methods.calibration.samples import data_by_block
from lutvar.quant.methods.layers.layer import Block, Layer
from lutvar.quant.methods.layers.ranged import RangedLayer
from lutvar.quant.methods.quantizers.fake import FakeQuantizer
from lutvar.quant.methods.quantizers.logarithmic import LogTable, ShiftUniformLog2
from lutvar.quant.methods.quantizers.spec import QuantizerSpec
from lutvar.quant.methods.steps import make_step
from lutvar.quant.methods.steps.noisyquant import NoisyInput
from lutvar.quant.methods.steps.vidit import moving_range
from lutvar.quant.models import LoadedModel, load_model
from support.quant.method_models import SCALES, error, float_output, generated, one_layer, outliers


@pytest.fixture(scope="module")
def digits() -> LoadedModel:
    return load_model("digits")


def test_shift_uniform_log2_by_hand() -> None:
    """Logarithms from -4 to 0 with 5 codes (step 4/7 rounded to whole powers at the end)."""
    rule = ShiftUniformLog2(eta=0.0625, low=-4.0, high=0.0, bits=3)
    for x in (0.0, 0.03, 0.2, 0.5, 0.9375):
        code = round((math.log2(x + 0.0625) + 4) / (4 / 7))
        expected = 2 ** round(code * 4 / 7 - 4) - 0.0625
        assert float(rule(torch.tensor([x]))) == pytest.approx(expected)


def test_shift_uniform_log2_covers_the_domain() -> None:
    """Every probability lands within half a code and half an octave; log2 loses the small ones."""
    draw = torch.Generator().manual_seed(0)
    p = torch.softmax(torch.randn(4, 64, 64, generator=draw) * 2, -1)
    rule = ShiftUniformLog2.fit(p, 3)
    limit = (rule.high - rule.low) / 7 / 2 + 0.5

    def distance(q: torch.Tensor) -> torch.Tensor:
        return (torch.log2(q + rule.eta) - torch.log2(p + rule.eta)).abs()

    assert distance(rule(p)).max() <= limit + 1e-4
    assert distance(LogTable("log2", 2)(p)).max() > limit
    errors = [
        (ShiftUniformLog2.fit(p, 3, (eta,))(p) - p).square().mean() for eta in (0.001, 0.1, 1.0)
    ]
    assert (rule(p) - p).square().mean() < min(errors)


def _block(digits: LoadedModel, bits: int) -> Block:
    calibration = calibration_set(digits.var, digits.vqvae, 6, seed=0)
    data = next(data_by_block(digits.var, calibration))
    module = digits.var.blocks[0]
    quantizer = FakeQuantizer(QuantizerSpec(format=f"INT{bits}", group="row", asymmetric=True))
    layers = {
        site.name: Layer(site, w.detach(), b.detach(), activation=quantizer, weight=quantizer)
        for site, w, b in module.iter_linears()
    }
    return Block(0, layers, module, data)


def _block_error(block: Block) -> float:
    """Squared error of the block's output with the finished layers."""
    assert block.module is not None and block.data is not None
    data, holder = block.data, block.module.linears
    with torch.no_grad():
        exact = block.module(data.x_BLC, data.modulation, data.mask_11LL)
        before = holder.backend
        holder.backend = lambda site, x, w, b: block.layers[site.name](x, 0)
        try:
            found = block.module(data.x_BLC, data.modulation, data.mask_11LL)
        finally:
            holder.backend = before
    return float((found - exact).square().mean())


def test_stages_lower_the_blocks_error(digits: LoadedModel) -> None:
    errors = {}
    for iterations in (0, 40):
        block = _block(digits, 4)
        make_step({"step": "ias", "iterations": iterations}).apply(block)
        for layer in block.layers.values():
            layer.finish()
        errors[iterations] = _block_error(block)
        assert isinstance(block.layers["qkv"].activation, FixedRange)
        assert block.layers["qkv"].activation.scale.shape == (1,)
        assert len(block.layers["qkv"].operations) == 2 and not block.layers["fc2"].operations
    assert errors[40] < 0.85 * errors[0]
    block = _block(digits, 4)
    make_step({"step": "ias", "iterations": 0}).apply(block)
    for layer in block.layers.values():
        layer.finish()
    assert _block_error(block) == errors[0]


def test_stages_leave_the_model_alone(digits: LoadedModel) -> None:
    before = {k: v.clone() for k, v in digits.var.state_dict().items()}
    backend = digits.var.backends.backend
    make_step({"step": "ias", "iterations": 3}).apply(_block(digits, 6))
    assert digits.var.backends.backend is backend
    after = digits.var.state_dict()
    assert all(torch.equal(before[k], after[k]) for k in before)
    assert all(p.grad is None for p in digits.var.parameters())
    _, outside = one_layer("head", outliers())
    with pytest.raises(ValueError, match="step ias rebuilds blocks; head lies outside"):
        make_step({"step": "ias"}).apply(outside)


def test_noise_is_fixed_and_leaves_through_the_bias() -> None:
    # Channel 0 makes a step of about 1; the others sit near half a step.
    draw = torch.Generator().manual_seed(0)
    x = 0.45 + 0.05 * torch.randn(8, 14, 32, generator=draw)
    x[..., 0] = torch.linspace(-7, 8, 14)
    layer, block = one_layer("proj", x)
    make_step({"step": "static-range"}).apply(block)
    inner, exact = layer.activation, float_output(layer, x)
    plain = Layer(layer.site, layer.weight_OI, layer.bias_O, activation=inner, weight=layer.weight)
    plain.finish()
    make_step({"step": "noisyquant"}).apply(block)
    layer.finish()
    assert isinstance(layer.activation, NoisyInput) and isinstance(inner, FixedRange)
    noise = layer.activation.noise_I
    assert 0 < noise.abs().max() <= 2 * inner.scale
    assert error(layer, x, exact) < error(plain, x, exact)
    corrected = layer.bias_O - layer.rounded_OI @ noise
    expected = F.linear(inner(x + noise, 0), layer.rounded_OI, corrected)
    assert torch.allclose(layer(x, 0), expected, atol=1e-4)
    again, other = one_layer("proj", x)
    for step in ("static-range", "noisyquant"):
        make_step({"step": step}).apply(other)
    assert isinstance(again.activation, NoisyInput)
    assert torch.equal(again.activation.noise_I, noise)


def test_moving_range_by_hand() -> None:
    """Two samples, two halves: mean of the halves' maxima, then 0.75 old + 0.25 new."""
    x = torch.tensor([[[1.0], [-2.0]], [[4.0], [0.0]], [[6.0], [1.0]], [[-8.0], [3.0]]])
    assert moving_range(x, 0.75).tolist() == [0.75 * (2 + 6) / 2 + 0.25 * (4 + 8) / 2]


def test_balance_differs_by_range_and_keeps_the_function() -> None:
    x = outliers()
    x[:, 5:] = x[:, 5:].flip(-1)  # the last scale step has its outliers elsewhere
    errors = {}
    for starts in ((0.0,), (0.0, 0.67)):
        layer, block = one_layer("qkv", x, bits=4)
        exact = float_output(layer, x)
        settings = {"step": "vidit", "starts": starts, "alpha": [0.5] * len(starts)}
        make_step(settings).apply(block)
        ranged = block.layers["qkv"]
        assert isinstance(ranged, RangedLayer) and ranged.starts == (0, 2)[: len(starts)]
        for k, (a, b) in enumerate(SCALES):
            part = ranged.part(k)
            same = float_output(part, part.prepared(x[:, a:b]))
            assert torch.allclose(same, exact[:, a:b], atol=1e-3)
        make_step({"step": "hadamard", "size": 32}).apply(block)
        assert all(len(part.operations) == 2 for part in ranged.parts)
        ranged.finish()
        errors[len(starts)] = error(ranged, x, exact)
    assert errors[2] < 0.8 * errors[1]


def test_errors() -> None:
    with pytest.raises(ValueError, match="must rise from 0"):
        make_step({"step": "vidit", "starts": [0.5], "alpha": [0.3]})
    with pytest.raises(ValueError, match="1 alpha for 2 ranges"):
        make_step({"step": "vidit", "alpha": [0.3]})
    _, block = one_layer("qkv", outliers(samples=2))
    with pytest.raises(CalibrationError, match="moving average needs at least 2"):
        make_step({"step": "vidit"}).apply(block)
    layer, block = one_layer("qkv", outliers())
    layer.activation = None
    with pytest.raises(ValueError, match=r"noisyquant: input of block0\.qkv is not quantized"):
        make_step({"step": "noisyquant"}).apply(block)


@pytest.mark.parametrize("name", ["ias", "noisyquant", "vidit"])
@pytest.mark.parametrize("bits", [4, 6])
def test_recipe_generates(digits: LoadedModel, name: str, bits: int) -> None:
    quantized, errors = generated(digits, f"{name}-w{bits}a{bits}", quick={"iterations": 3})
    assert 0.001 < errors[0] < (0.2 if bits == 4 else 0.06)
    assert {site.name for site in quantized.layers} == {"qkv", "proj", "fc1", "fc2"}
