# SPDX-License-Identifier: Apache-2.0
"""Relevance of linears for the classifier's score, and bits by it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from lutvar.quant.methods import (
    CalibrationError,
    calibration_set,
    load_recipe,
    prepare_calibration,
    quantize_var,
)
from lutvar.quant.methods.calibration.prepare import CalibrationSpec
from lutvar.quant.methods.calibration.relevance import class_relevance, expected_image
from lutvar.quant.models import LoadedModel, load_model
from lutvar.quant.var.sites import SITE_NAMES


@pytest.fixture(scope="module")
def digits() -> LoadedModel:
    return load_model("digits")


def test_certain_tokens_give_the_decoded_image(digits: LoadedModel) -> None:
    given = calibration_set(digits.var, digits.vqvae, 2, seed=0)
    logits_BLV = torch.nn.functional.one_hot(given.tokens_NL, digits.var.config.vocab) * 100.0
    sides = digits.var.config.patch_nums
    wanted = digits.vqvae.decode(list(given.tokens_NL.split([s * s for s in sides], 1)))
    assert torch.allclose(expected_image(digits.vqvae, logits_BLV), wanted, atol=1e-4)


def test_relevance_by_the_gradient_of_the_weights(digits: LoadedModel) -> None:
    """What a channel explains is the same by Euler's theorem: sum of W dS/dW and b dS/db."""
    var, judge = digits.var, digits.classifier()
    given = calibration_set(var, digits.vqvae, 2, seed=0)
    found = class_relevance(var, digits.vqvae, judge, given)
    assert found.shape == (var.config.depth, 4) and float(found.mean()) == pytest.approx(1)
    wanted = torch.zeros_like(found)
    for n in range(2):
        weights = {}
        with torch.enable_grad():

            def run(site, x_BLC, weight_OI, bias_O, weights=weights):  # type: ignore[no-untyped-def]
                whole_OI = torch.cat((weight_OI, bias_O.unsqueeze(1)), 1).detach().requires_grad_()
                weights[site] = whole_OI
                ones = torch.ones_like(x_BLC[..., :1])
                return torch.cat((x_BLC, ones), -1) @ whole_OI.T

            with var.backends.replaced(run):
                logits = var(given.labels_N[n : n + 1], given.inputs_NLZ[n : n + 1])
            score = judge(expected_image(digits.vqvae, logits))[0, given.labels_N[n]]
            own = {site: w for site, w in weights.items() if site.name in SITE_NAMES}
            gradients = torch.autograd.grad(score, list(own.values()))
        for (site, whole_OI), g_OI in zip(own.items(), gradients, strict=True):
            channels_O = (whole_OI.detach() * g_OI).sum(1)
            wanted[site.block, SITE_NAMES.index(site.name)] += float(channels_O.abs().sum())
    assert torch.allclose(found, wanted / wanted.mean(), rtol=1e-3)


def test_bits_go_to_what_is_relevant(digits: LoadedModel) -> None:
    recipe = load_recipe("lrp-mixed-w6a6")
    given = calibration_set(digits.var, digits.vqvae, 4, seed=0)
    relevance = torch.full((digits.var.config.depth, 4), 0.1)
    relevance[0] = 10.0  # all of the first block, a half or less of the weights
    made = quantize_var(digits.var, recipe, replace(given, relevance=relevance))
    notes = {site: layer.notes[-1] for site, layer in made.layers.items()}
    assert all(note == "mixed: w8" for site, note in notes.items() if site.block == 0)
    with pytest.raises(CalibrationError, match=r"set calibration\.relevance"):
        quantize_var(digits.var, recipe, given)
    with pytest.raises(CalibrationError, match="without a classifier of its images"):
        prepare_calibration(digits.var, digits.vqvae, CalibrationSpec(samples=4, relevance=2))
    prepared = prepare_calibration(
        digits.var, digits.vqvae, CalibrationSpec(samples=4, relevance=2),
        classifier=digits.classifier,
    )  # fmt: skip
    assert prepared.relevance is not None and len(prepared) == 4
