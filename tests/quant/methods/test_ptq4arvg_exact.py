# SPDX-License-Identifier: Apache-2.0
"""PTQ4ARVG to the letter: the whole procedure against logits that the released code computed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from lutvar.quant.methods import CalibrationSet, calibration_set, load_recipe, quantize_var
from lutvar.quant.methods.calibration.network import RunningRange, parts_of
from lutvar.quant.methods.calibration.prepare import CalibrationSpec
from lutvar.quant.methods.calibration.samples import data_by_block, replay
from lutvar.quant.methods.quantizers.percentiles import average_range, percentile_range
from lutvar.quant.methods.quantizers.static import StaticQuantizer
from lutvar.quant.methods.steps import make_step
from lutvar.quant.models import load_model
from lutvar.quant.var import Var
from lutvar.quant.var.blocks import SelfAttention
from support.quant.method_cases import make_block, outlier_inputs
from support.quant.ptq4arvg_case import BATCH, CONFIG, fill, samples

DATA = Path(__file__).parent / "data" / "ptq4arvg.npz"  # by make_ptq4arvg.py


@pytest.fixture
def var(monkeypatch: pytest.MonkeyPatch) -> Var:
    """The model in float64, where no last bit decides which code a value gets."""
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    made = Var(CONFIG).eval().double().requires_grad_(False)
    fill(made)
    return made


def calibration() -> CalibrationSet:
    labels, latent = samples()
    return CalibrationSet(labels, torch.zeros(len(labels), CONFIG.tokens).long(), latent)


@pytest.mark.parametrize("bits", [8, 6, 4])
def test_the_released_procedure(var: Var, bits: int) -> None:
    recipe = load_recipe(f"ptq4arvg-w{bits}a{bits}-exact")
    smooth, network = recipe.steps
    recipe = recipe.model_copy(update={
        "steps": ({**smooth, "batch": BATCH}, {**network, "batch": BATCH}),
        "attention": {**(recipe.attention or {}), "batch": BATCH},
    })  # fmt: skip
    given = calibration()
    rows = slice(len(given))  # the conditional ones
    with np.load(DATA) as data:
        plain, wanted = (torch.from_numpy(data[key]) for key in ("float", f"w{bits}a{bits}"))
    assert torch.allclose(torch.cat(replay(var, given, rows), 1), plain, atol=1e-9)
    quantized = quantize_var(var, recipe, given)
    with quantized.installed(var) as installed:
        logits = torch.cat(replay(installed, given, rows), 1)
    assert float((logits - wanted).abs().max()) < 1e-9
    # The distance that quantization itself makes, so that the comparison is one.
    assert float((wanted - plain).abs().max()) > 0.01


def test_without_a_mask_all_tokens_see_each_other(var: Var) -> None:
    """The float model's inputs with and without the mask, against attention by hand."""
    given = calibration()
    free, bound = (next(iter(data_by_block(var, given, masked))) for masked in (False, True))
    assert torch.equal(free.inputs["qkv"], bound.inputs["qkv"])
    attn = var.blocks[0].attn
    assert isinstance(attn, SelfAttention)
    qkv = free.inputs["qkv"][0] @ attn.mat_qkv.weight.T + attn.qkv_bias()
    q, k, v = qkv.view(-1, 3, CONFIG.heads, CONFIG.head_dim).permute(1, 2, 0, 3)
    q, k = (x / x.norm(dim=-1, keepdim=True) for x in (q, k))
    attended = torch.softmax(q * attn.scale_mul_1H11[0].exp() @ k.mT, -1) @ v
    wanted = attended.transpose(0, 1).flatten(1)
    assert torch.allclose(free.inputs["proj"][0], wanted, atol=1e-9)
    assert not torch.allclose(bound.inputs["proj"][0], wanted, atol=1e-3)


def test_averaged_zero_points_stay_as_they_are() -> None:
    x_BLI = outlier_inputs(rows=8)
    found = {}
    for rule in ("rounded", "averaged"):
        block, layer = make_block("proj", x_BLI, torch.randn(8, 64), bits=4)
        settings = {"step": "static-tokens", "ranges": "tensor", "batch": 2, "zero_points": rule}
        make_step(settings).apply(block)
        assert isinstance(layer.activation, StaticQuantizer)
        found[rule] = float(layer.activation.zero_point_S)
    parts = [percentile_range(x_BLI[[i, i + 4]].reshape(1, -1), 4)[1] for i in range(4)]
    average = 0.0
    for i, zero_point in enumerate(parts):
        average = float(zero_point) if i == 0 else 0.1 * float(zero_point) + 0.9 * average
    assert found["averaged"] == pytest.approx(average, abs=1e-5)
    assert found["rounded"] == round(average) != found["averaged"]


def test_smoothquant_averages_over_batches() -> None:
    x_BLI, weight_OI = outlier_inputs(rows=8), torch.randn(8, 64)
    block, layer = make_block("qkv", x_BLI, weight_OI)
    make_step({"step": "smoothquant", "sites": ["qkv"], "batch": 2}).apply(block)
    factor = torch.zeros(64)
    for i in range(4):
        amax = x_BLI[[i, i + 4]].abs().amax((0, 1))
        one = (amax / weight_OI.abs().amax(0)).sqrt()
        factor = one if i == 0 else 0.1 * one + 0.9 * factor
    assert torch.allclose(layer.weight_OI, weight_OI * factor, rtol=1e-5)


def test_a_running_range_follows_until_it_is_fixed() -> None:
    first, second = torch.randn(2, 14, 8), 3 * torch.randn(2, 14, 8)
    running = RunningRange(4, ((1, 14),), by_channel=True)
    seen = running(first)
    assert torch.equal(seen[:, 0], first[:, 0]) and not torch.equal(seen[:, 1:], first[:, 1:])

    def ranges(x: Tensor) -> tuple[Tensor, Tensor]:
        return percentile_range(x[:, 1:].reshape(-1, 8).T.contiguous(), 4)

    running(second)
    wanted = average_range([ranges(first), ranges(second)], "averaged")
    assert torch.equal(running.range.scale, wanted[0])
    assert torch.equal(running.range.zero_point, wanted[1])
    running.follows = False
    running(10 * first)
    assert torch.equal(running.range.scale, wanted[0])
    assert parts_of((0, 1), ((0, 1), (1, 5), (5, 14))) == ((0, 1), (1, 14))
    assert parts_of((0,), ((0, 1), (1, 5))) is None


def test_what_cannot_be_is_refused() -> None:
    for settings, pattern in (
        ({"ranges": {"ada_lin": "scale"}}, "its input has no scale steps: tensor"),
        ({"ranges": {"qkv": "scale"}}, "fc1, head must be in `ranges`"),
    ):
        with pytest.raises(ValueError, match=pattern):
            make_step({"step": "static-network", **settings})
    step = make_step({"step": "static-network", "ranges": {}, "centre": [], "gps": []})
    with pytest.raises(ValueError, match="works on the whole model, not on block 0"):
        step.apply(make_block("qkv", torch.ones(2, 14, 64), torch.randn(8, 64))[0])


def test_on_float_inputs_it_is_the_steps_one_after_the_other() -> None:
    """`inputs: float` finds what the steps find that work block by block."""
    digits = load_model("digits")
    given = calibration_set(digits.var, digits.vqvae, 6, seed=0)
    old, new = load_recipe("ptq4arvg-w6a6"), load_recipe("ptq4arvg-w6a6-exact")
    averaged = {"batch": 4, "zero_points": "averaged"}
    steps = [old.steps[0], *({**step, **averaged} for step in old.steps[1:])]
    smooth, network = new.steps
    one = {**network, "inputs": "float", "batch": 4}
    made = [
        quantize_var(digits.var, recipe.model_copy(update={
            "steps": tuple(chosen), "attention": None, "calibration": CalibrationSpec(),
        }), given)
        for recipe, chosen in ((old, steps), (new, [{**smooth, "batch": None}, one]))
    ]  # fmt: skip
    for site, layer in made[0].layers.items():
        other = made[1].layers[site]
        assert isinstance(layer.activation, StaticQuantizer)
        assert isinstance(other.activation, StaticQuantizer)
        assert torch.allclose(layer.activation.scale_S, other.activation.scale_S, rtol=1e-3)
        assert torch.allclose(layer.weight_OI, other.weight_OI, rtol=1e-2, atol=1e-4)
        assert layer.activation.pair_of_scale == other.activation.pair_of_scale
