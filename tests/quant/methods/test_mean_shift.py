# SPDX-License-Identifier: Apache-2.0
"""Means of inputs go into AdaLN and biases: same function, less to quantize."""

from __future__ import annotations

import pytest
import torch

from lutvar.quant.methods import Recipe, calibration_set, quantize_var
from lutvar.quant.methods.calibration.samples import data_by_block, replay
from lutvar.quant.methods.layers.operations import ChannelShift
from lutvar.quant.models import load_model
from lutvar.quant.var.sites import LinearSite

FOUR = {"input": {"format": "E2M1"}}


def shifted(**layers: object) -> Recipe:
    steps = ({"step": "mean-shift", "sites": list(layers)},)
    return Recipe.model_validate({"name": "m", "layers": {"qkv": {}} | layers, "steps": steps})


def test_the_function_stays_and_the_mean_goes() -> None:
    digits = load_model("digits")
    samples = calibration_set(digits.var, digits.vqvae, 6, seed=0)
    made = quantize_var(digits.var, shifted(qkv=FOUR, proj=FOUR, fc1=FOUR), samples)
    for layer in made.layers.values():
        layer.activation = None
    exact = torch.cat(replay(digits.var, samples), 1)
    with made.installed(digits.var) as var:
        found = torch.cat(replay(var, samples), 1)
    assert torch.allclose(found, exact, atol=2e-3 * float(exact.abs().max()))
    data = next(data_by_block(digits.var, samples))
    for name in ("qkv", "fc1"):
        layer = made.layers[LinearSite(0, name)]
        mean_I = layer.prepared(data.inputs[name]).mean((0, 1))
        assert float(mean_I.abs().max()) < 1e-4 < float(data.inputs[name].mean((0, 1)).abs().max())
        assert [type(op) for op in layer.operations] == [ChannelShift]
    # In front of proj it is the bias of the values; nothing is left to do.
    assert made.layers[LinearSite(0, "proj")].operations == []
    width, module = digits.var.config.width, digits.var.blocks[0].attn
    moved_I = made.layers[LinearSite(0, "qkv")].bias_O[2 * width :] - module.qkv_bias()[2 * width :]
    # The shift of qkv's own input changes its bias as well, by W m.
    own_I = data.inputs["qkv"].mean((0, 1)) @ module.mat_qkv.weight[2 * width :].mT
    assert torch.allclose(moved_I - own_I, -data.inputs["proj"].mean((0, 1)), atol=1e-4)


def test_inputs_lose_less_to_rounding() -> None:
    digits = load_model("digits")
    samples = calibration_set(digits.var, digits.vqvae, 6, seed=0)
    made = quantize_var(digits.var, shifted(qkv=FOUR, fc1=FOUR), samples)
    other = calibration_set(digits.var, digits.vqvae, 4, seed=5)
    for data, index in zip(
        data_by_block(digits.var, other), range(digits.var.config.depth), strict=False
    ):
        for name in ("qkv", "fc1"):
            layer, x_BLI = made.layers[LinearSite(index, name)], data.inputs[name]
            moved_BLI = layer.prepared(x_BLI)
            quantize = layer.activation
            assert quantize is not None
            error = (quantize(moved_BLI, 0) - moved_BLI).square().mean()
            assert error < 0.98 * (quantize(x_BLI, 0) - x_BLI).square().mean(), layer.site


def test_proj_needs_qkv() -> None:
    digits = load_model("digits")
    samples = calibration_set(digits.var, digits.vqvae, 4, seed=0)
    steps = ({"step": "mean-shift"},)
    recipe = Recipe.model_validate({"name": "m", "layers": {"proj": FOUR}, "steps": steps})
    with pytest.raises(ValueError, match="block 0: the recipe does not name qkv"):
        quantize_var(digits.var, recipe, samples)
