# SPDX-License-Identifier: Apache-2.0
"""PTQ4ARVG: factors against an oracle in numpy, shifts, static ranges, selection of rows."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from lutvar.quant.methods import (
    CalibrationError,
    FakeQuantizer,
    Layer,
    QuantizerSpec,
    Recipe,
    prepare_calibration,
    quantize_var,
)
from lutvar.quant.methods.attention.static import StaticAttention
from lutvar.quant.methods.calibration.prepare import CalibrationSpec
from lutvar.quant.methods.calibration.rows import row_batches
from lutvar.quant.methods.calibration.samples import calibration_set, data_by_block
from lutvar.quant.methods.calibration.select import SelectSpec, features, mahalanobis, select
from lutvar.quant.methods.quantizers.percentiles import moving_average, percentile_range
from lutvar.quant.methods.quantizers.static import StaticQuantizer
from lutvar.quant.methods.steps import make_step
from lutvar.quant.methods.steps.gps import gain_factors
from lutvar.quant.models import LoadedModel, load_model
from lutvar.quant.var.sites import AttentionOperands
from support.quant.method_cases import SCALES, generates, make_block, outlier_inputs


@pytest.fixture(scope="module")
def digits() -> LoadedModel:
    return load_model("digits")


def oracle_factors(x: np.ndarray, w: np.ndarray, qx: np.ndarray, qw: np.ndarray, paper: bool):
    """The factor of each channel, one at a time, in float64."""
    ranges = np.ptp(x, axis=0)
    k = int(ranges.argmax())
    s_k = (ranges[k] / np.ptp(w[:, k])) ** 0.5
    factors = np.empty(x.shape[1])
    for i in range(x.shape[1]):
        if i == k:
            factors[i] = s_k
        elif paper:
            up = sum(np.abs((w - qw)[j, i] * x[:, i]).sum() for j in range(len(w)))
            down = sum(np.abs(w[j, i] * (x - qx)[:, i]).sum() for j in range(len(w)))
            factors[i] = s_k * up**0.5 / down**0.5
        else:
            up = np.sum(x[:, i] ** 2) * np.sum((w - qw)[:, i] ** 2)
            down = np.sum((x - qx)[:, i] ** 2) * np.sum(qw[:, i] ** 2)
            factors[i] = (s_k**4 * up / down) ** 0.25
    return factors


@pytest.mark.parametrize("formula", ["paper", "code"])
def test_gain_factors_agree_with_the_oracle(formula: str) -> None:
    x_TI, weight_OI = outlier_inputs()[:, 1:].flatten(0, 1), torch.randn(24, 64) * 0.3
    row = FakeQuantizer(QuantizerSpec(format="INT6", group="row", asymmetric=True))
    tensor = FakeQuantizer(QuantizerSpec(format="INT6", group="tensor", asymmetric=True))
    rounded = tensor(x_TI), row(weight_OI)
    ours = gain_factors(x_TI, rounded[0], weight_OI, rounded[1], formula)  # type: ignore[arg-type]
    x, w, qx, qw = (t.double().numpy() for t in (x_TI, weight_OI, *rounded))
    theirs = oracle_factors(x, w, qx, qw, paper=formula == "paper")
    assert np.allclose(ours.numpy(), theirs, rtol=1e-4)
    # An exact operand leaves nothing to trade.
    same = gain_factors(x_TI, x_TI, weight_OI, rounded[1], formula)  # type: ignore[arg-type]
    assert (same == 1).sum() == 63


def output_error(layer: Layer, x_BLI: Tensor, wanted: Tensor) -> float:
    layer.rounded_OI = None
    layer.finish()
    return float((layer(x_BLI, 1) - wanted).square().mean())


@pytest.mark.parametrize("formula", ["paper", "code"])
def test_the_pipeline_lowers_the_output_error(formula: str) -> None:
    """Each step keeps the float result; together they beat the static ranges alone."""
    x_BLI, weight_OI = outlier_inputs(), torch.randn(48, 64) * 0.3
    errors = {}
    for name, steps in {
        "static": [],
        "shift": [{"step": "symmetric-shift"}],
        "gps": [{"step": "symmetric-shift"}, {"step": "gps", "formula": formula}],
    }.items():
        block, layer = make_block("qkv", x_BLI, weight_OI, bits=6)
        wanted = x_BLI @ weight_OI.T
        for settings in steps:
            make_step(settings).apply(block)
        float_result = layer.prepared(x_BLI) @ layer.weight_OI.T + layer.bias_O
        assert torch.allclose(float_result, wanted, rtol=1e-3, atol=1e-2)
        make_step({"step": "static-tokens", "ranges": "sink"}).apply(block)
        errors[name] = output_error(layer, x_BLI[:, 1:], wanted[:, 1:])
    assert errors["shift"] < errors["static"]
    assert errors["gps"] < 0.3 * errors["shift"]


def test_symmetric_shift_centres_every_channel() -> None:
    x_BLI = outlier_inputs(rows=64)
    block, layer = make_block("qkv", x_BLI, torch.randn(8, 64))
    make_step({"step": "symmetric-shift"}).apply(block)
    moved = layer.prepared(x_BLI[:, 1:]).flatten(0, 1)
    middle = (moved.amax(0) + moved.amin(0)).abs() / (moved.amax(0) - moved.amin(0))
    before = x_BLI[:, 1:].flatten(0, 1)
    was = (before.amax(0) + before.amin(0)).abs() / (before.amax(0) - before.amin(0))
    assert middle[:3].max() < 0.1 < was[:3].min()
    assert [op.describe() for op in layer.operations] == ["channel shift"]


def test_percentiles_against_a_search_by_hand() -> None:
    torch.manual_seed(3)
    x_NM = torch.randn(5, 4000)
    x_NM[0, 0] = 8.0
    x_NM[1] = 4.0
    scale_N, zero_point_N = percentile_range(x_NM, 4)
    for n, x in enumerate(x_NM.double().numpy()):
        best = None
        for p in (0.999, 0.9999, 0.99999):
            low, high = np.quantile(x, 1 - p), np.quantile(x, p)
            step = (high - low) / 15 or abs(low)
            code = np.clip(np.rint(x / step) - np.rint(low / step), 0, 15) + np.rint(low / step)
            error = ((code * step - x) ** 2).mean()
            if best is None or error < best[0] * (1 - 1e-6):
                best = error, step, np.rint(low / step)
        assert best is not None
        assert np.isclose(scale_N[n], best[1], rtol=1e-4) and zero_point_N[n] == -best[2]
    assert scale_N[0] < 0.5  # the outlier was cut off
    assert float(moving_average([torch.ones(1), torch.zeros(1)])) == pytest.approx(0.9)


def test_static_ranges_follow_the_scale_steps() -> None:
    x_BLI = torch.cat([torch.rand(4, b - a, 64) * 4.0**i for i, (a, b) in enumerate(SCALES)], 1)
    for ranges, sizes in {"scale": [1, 4, 16], "sink": [1, 16, 16], "tensor": [16] * 3}.items():
        block, layer = make_block("fc1", x_BLI, torch.randn(8, 64), bits=4)
        make_step({"step": "static-tokens", "ranges": ranges}).apply(block)
        quantizer = layer.activation
        assert isinstance(quantizer, StaticQuantizer) and quantizer.bits == 4
        for index, size in enumerate(sizes):
            # Values beyond the range end at its top, whatever comes.
            top = quantizer(torch.full((1, 1, 64), 1e6), index).max()
            assert size * 0.85 < top < size * 1.15
    block, layer = make_block("fc1", x_BLI, torch.randn(8, 64))
    layer.activation = FakeQuantizer(QuantizerSpec(format="E2M1", group=64))
    with pytest.raises(ValueError, match="asymmetric integers, not of FakeQuantizer"):
        make_step({"step": "static-tokens"}).apply(block)
    layer.activation = None
    with pytest.raises(ValueError, match=r"remove it from gps\.sites"):
        make_step({"step": "gps", "sites": ["fc1"]}).apply(block)
    with pytest.raises(ValueError, match="finite and above 0"):
        StaticQuantizer.of("INT4", torch.tensor([float("nan")]), torch.zeros(1), (0,))


def test_batches_hold_both_halves_and_leave_out_the_sink() -> None:
    x_BLI = torch.arange(6.0).view(6, 1, 1).expand(6, 14, 64)
    block, layer = make_block("qkv", x_BLI, torch.randn(8, 64))
    batches = row_batches(block, layer, 2, skip_first=True)
    assert [x[:, 0, 0].tolist() for x, _ in batches] == [[0, 3], [1, 4], [2, 5]]
    assert batches[0][1] == ((0, 4), (4, 13)) and batches[0][0].shape[1] == 13
    assert len(row_batches(block, layer, 4)[0][0]) == 6


def test_unusable_data_is_refused(digits: LoadedModel) -> None:
    x_BLI = torch.ones(2, 14, 64)
    block = make_block("qkv", x_BLI, torch.randn(8, 64))[0]
    with pytest.raises(CalibrationError, match=r"of 1 calibration sample\(s\) say nothing"):
        make_step({"step": "static-tokens"}).apply(block)
    block = make_block("qkv", x_BLI.repeat(2, 1, 1) * float("inf"), torch.randn(8, 64))[0]
    with pytest.raises(CalibrationError, match=r"block0\.qkv: input is not finite"):
        make_step({"step": "gps"}).apply(block)
    made = prepare_calibration(digits.var, digits.vqvae, CalibrationSpec(samples=2))
    assert made.notes == ("only 2 of 10 classes have a calibration sample",)
    with pytest.raises(ValueError, match=r"percentile needs asymmetric"):
        QuantizerSpec(format="INT4", percentile=True)
    for attention, pattern in (
        ({"kind": "static", "format": "E2M1"}, "E2M1 is not one"),
        ({"kind": "static", "q": {"format": "INT8"}}, "format` for all operands"),
        ({"kind": "static", "colour": 1}, "colour"),
        ({"kind": "shift-and-sum"}, "needs a quantizer of the values"),
        ({"kind": "nothing"}, "known: .*plain, sage, shift-and-sum"),
    ):
        with pytest.raises(ValueError, match=pattern):
            Recipe(name="r", attention=attention)


def test_mahalanobis_and_its_degeneracy() -> None:
    torch.manual_seed(4)
    x_NC = torch.randn(40, 6) @ torch.randn(6, 6)
    centred = (x_NC - x_NC.mean(0)).double()
    inverse = np.linalg.inv(np.cov(x_NC.double().numpy().T))
    direct = np.sqrt(np.einsum("nc,cd,nd->n", centred, inverse, centred))
    assert np.allclose(mahalanobis(x_NC).numpy(), direct, rtol=1e-6)
    wide = mahalanobis(torch.randn(32, 64))
    assert torch.allclose(wide, torch.full_like(wide, 31 / 32**0.5), rtol=1e-6)


def test_selection_of_rows(digits: LoadedModel) -> None:
    calibration = calibration_set(digits.var, digits.vqvae, 20, seed=0)
    released = select(digits.var, calibration, SelectSpec())
    assert released.rows is not None and len(released.rows) == 20
    assert int((released.rows < 20).sum()) == 10
    assert "degenerate: 20 samples of 128 dimensions" in released.notes[0]
    with pytest.raises(CalibrationError, match=r"set calibration\.select\.reduce"):
        select(digits.var, calibration, SelectSpec(rule="paper"))
    with pytest.raises(CalibrationError, match="must be below 19"):
        select(digits.var, calibration, SelectSpec(reduce=19))
    with pytest.raises(CalibrationError, match="2 or more"):
        select(digits.var, calibration.first(1), SelectSpec())
    spec = SelectSpec(rule="paper", reduce=4, feature="mean")
    chosen = select(digits.var, calibration, spec)
    assert chosen.rows is not None and len(chosen.rows) == 20
    halves = features(digits.var, calibration, spec).chunk(2)
    distances = []
    for half in halves:
        centred = half.double() - half.double().mean(0)
        scores = centred @ torch.linalg.svd(centred)[2][:4].T
        inverse = torch.linalg.inv(torch.cov(scores.T))
        distances.append((scores @ inverse * scores).sum(1))
    far = torch.cat(distances).topk(20).indices.sort().values
    assert torch.equal(chosen.rows, far)
    # The walk sees these rows and no others.
    blocks = list(data_by_block(digits.var, chosen))
    every = list(data_by_block(digits.var, calibration))
    assert torch.allclose(
        blocks[1].inputs["fc1"], every[1].inputs["fc1"][chosen.rows], rtol=1e-4, atol=1e-4
    )


def test_recipes_generate(digits: LoadedModel) -> None:
    errors = [generates(digits, f"ptq4arvg-w{b}a{b}") for b in (8, 6, 4)]
    assert 0 < errors[0] < 0.5 * errors[1] < 0.25 * errors[2] < 0.15


def test_static_attention_keeps_its_ranges(digits: LoadedModel) -> None:
    recipe = Recipe(name="a", attention={"kind": "static", "format": "INT4", "batch": 6})
    calibration = calibration_set(digits.var, digits.vqvae, 6, seed=0)
    made = quantize_var(digits.var, recipe, calibration).attention
    assert isinstance(made, StaticAttention)
    assert len(made.fixed) == 4 * digits.var.config.depth
    # Probabilities reach from 0 to at most 1, keys have unit length.
    top = made.fixed[1, "probabilities"](torch.full((1, 1), 9.0), 0)
    assert 0.3 < float(top) <= 1.001
    assert 0.1 < float(made.fixed[1, "k"](torch.full((1, 1), 9.0), 0)) <= 1.001
    q, k, v = (torch.randn(2, 2, 5, 64) for _ in range(3))
    fresh = StaticAttention(recipe.attention or {}, digits.var, None)
    with pytest.raises(RuntimeError, match="was not measured"):
        fresh(1, AttentionOperands(q, k, v, None, 1.0))
    fresh.load_state(made.state())
    assert torch.equal(
        fresh(1, AttentionOperands(q, k, v, None, 1.0)),
        made(1, AttentionOperands(q, k, v, None, 1.0)),
    )
