# SPDX-License-Identifier: Apache-2.0
"""Whole models on the golden and fake-quantized backends: generation, recording, distances."""

from __future__ import annotations

import math
from functools import cache
from typing import Any, cast

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from lutvar.contract.quant_preset import load_quant
from lutvar.quant.golden import FakeQuantBackend, GoldenBackend, linear
from lutvar.quant.golden.distance import (
    DistanceReport,
    SiteProbe,
    compare_backends,
    kl_divergence,
    relative_error,
    snr_db,
    token_agreement,
)
from lutvar.quant.models import LoadedModel, load_model
from lutvar.quant.ptq import QuantizedModel, quantize_model
from lutvar.quant.var import FloatLinear, GenerationResult, LinearSite, generate

LABELS = torch.tensor([3, 8])


@cache
def digits() -> LoadedModel:
    return load_model("digits")


@cache
def quantized(preset: str) -> QuantizedModel:
    return quantize_model(digits().var, load_quant(preset))


def run(backend: Any) -> GenerationResult:
    model = digits()
    before = model.var.linear_backend
    model.var.linear_backend = backend
    try:
        return generate(model.var, model.vqvae, LABELS, seed=1, cfg=1.5, keep_logits=True)
    finally:
        model.var.linear_backend = before


@pytest.mark.parametrize("preset", ["fp4", "fp6"])
def test_generation_is_repeatable_and_codes_are_in_range(preset: str) -> None:
    model, used, seen = quantized(preset), {}, {}
    for site, layer in model.layers.items():
        used[str(site)] = np.array(layer.activation_format.codes_used)

    def record(name: str, value: NDArray[Any]) -> None:
        site, _, what = name.rpartition(".")
        seen.setdefault(site, set()).add(what)
        if what == "codes":
            assert value.dtype == np.uint8
            assert np.isin(value, used[site]).all()
        elif what == "y":
            assert value.dtype == np.float32 and np.isfinite(value).all()
        else:
            assert value.dtype == np.uint16

    first = run(GoldenBackend(model, record))
    second = run(GoldenBackend(model, keep_weights=False))
    for a, b in zip(first.tokens, second.tokens, strict=True):
        assert torch.equal(a, b)
    assert torch.equal(first.images_BCHW, second.images_BCHW)
    assert set(seen) == {str(site) for site in model.layers}
    assert all(what == {"input", "codes", "scale", "scale_neg", "y"} for what in seen.values())


@cache
def report() -> DistanceReport:
    model = digits()
    tokens = run(FloatLinear()).tokens
    inputs = model.vqvae.quantize.teacher_inputs(tokens)
    backends: dict[str, Any] = {}
    for preset in ("fp4", "fp6"):
        backends[f"golden {preset}"] = GoldenBackend(quantized(preset))
        backends[f"fake {preset}"] = FakeQuantBackend(model.var, load_quant(preset))
    before = model.var.linear_backend
    result = compare_backends(model.var, LABELS, inputs, backends)
    assert model.var.linear_backend is before
    return result


def test_fp6_is_closer_than_fp4_everywhere() -> None:
    logits, sites = report().logits, report().sites
    for kind in ("golden", "fake"):
        four, six = logits[f"{kind} fp4"], logits[f"{kind} fp6"]
        assert math.isfinite(four.relative_error) and math.isfinite(four.kl_nats)
        assert 0 < six.relative_error < four.relative_error < 1
        assert 0 < six.kl_nats < four.kl_nats
        assert four.token_agreement <= six.token_agreement <= 1
        assert six.snr_db > four.snr_db + 5
        for site, ratio in sites[f"{kind} fp4"].items():
            assert 8 < ratio < sites[f"{kind} fp6"][site] - 6, site


def test_golden_is_as_good_as_fake_quantization() -> None:
    # Other scale rounding, same formats: per site the noise is nearly the same.
    for preset in ("fp4", "fp6"):
        golden, fake = report().sites[f"golden {preset}"], report().sites[f"fake {preset}"]
        for site, ratio in golden.items():
            assert ratio == pytest.approx(fake[site], abs=0.7), site
        assert 0 < report().pairs[f"golden {preset}", f"fake {preset}"] < 0.5


def test_recorder_sees_what_the_layer_computes() -> None:
    model, seen = quantized("fp4"), {}
    backend = GoldenBackend(model, seen.__setitem__, keep_sums=True)
    site = LinearSite(1, "fc2")
    layer = model[site]
    x = torch.randn(2, 3, layer.inputs, generator=torch.Generator().manual_seed(4))
    y = backend(site, x, torch.empty(layer.outputs, layer.inputs), None)
    assert y.shape == (2, 3, layer.outputs)
    alone = linear(layer, x.view(6, -1), keep_sums=True)
    np.testing.assert_array_equal(y.view(6, -1).numpy(), alone.y)
    for name, value in {
        "input": alone.inputs,
        "codes": alone.activations.codes,
        "scale": alone.activations.scale,
        "scale_neg": alone.activations.scale_neg,
        "group_sums": alone.group_sums,
        "y": alone.y,
    }.items():
        np.testing.assert_array_equal(seen.pop(f"block1.fc2.{name}"), value)
    assert not seen


def test_backend_refuses_another_model() -> None:
    backend = GoldenBackend(quantized("fp4"))
    width = digits().var.config.width
    x = torch.zeros(1, 1, width)
    with pytest.raises(ValueError, match=r"block0\.proj: the model's weight is \[7, 128\]"):
        backend(LinearSite(0, "proj"), x, torch.empty(7, width), None)
    with pytest.raises(KeyError, match=r"block99\.proj is not among"):
        backend(LinearSite(99, "proj"), x, torch.empty(width, width), None)


def test_metrics_on_values_worked_by_hand() -> None:
    reference, value = torch.tensor([3.0, 4.0]), torch.tensor([3.0, 4.5])
    assert relative_error(reference, value) == pytest.approx(0.1)
    assert snr_db(reference, value) == pytest.approx(20.0)
    assert snr_db(reference, reference) == math.inf
    zero = torch.zeros(2)
    assert relative_error(zero, zero) == 0.0
    assert relative_error(zero, value) == math.inf and snr_db(zero, value) == -math.inf
    p, q = torch.tensor([[0.5, 0.5], [0.9, 0.1]]), torch.tensor([[0.25, 0.75], [0.9, 0.1]])
    expected = (0.5 * math.log(2) + 0.5 * math.log(2 / 3)) / 2
    assert kl_divergence(p.log(), q.log() + 7) == pytest.approx(expected, rel=1e-6)
    assert token_agreement(p + torch.tensor([1e-3, 0]), q) == 0.5
    with pytest.raises(ValueError, match=r"\[2\] and \[1, 2\] differ"):
        snr_db(reference, value.unsqueeze(0))


def test_probe_adds_energies_over_calls() -> None:
    site, weight = LinearSite(0, "proj"), torch.eye(2)

    def off_by_one(*arguments: Any) -> torch.Tensor:
        return FloatLinear()(*arguments) + torch.tensor([0.0, 1.0])

    probe = SiteProbe({"off": cast(Any, off_by_one)})
    for x in ([[[6.0, 0.0]]], [[[0.0, 8.0]]]):
        assert torch.equal(probe(site, torch.tensor(x), weight, None), torch.tensor(x))
    assert probe.snr_db("off") == {"block0.proj": pytest.approx(10 * math.log10(100 / 2))}
