# SPDX-License-Identifier: Apache-2.0
"""Shift-and-Sum: averaged copies, scores, threshold, log2 codes, resampling."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from lutvar.quant.methods import FakeQuantizer, QuantizerSpec, Recipe, load_recipe, quantize_var
from lutvar.quant.methods.attention.bit_operations import (
    Scores,
    attention_operations,
    extra_operations,
    find_threshold,
    linear_operations,
)
from lutvar.quant.methods.attention.registry import make_attention
from lutvar.quant.methods.attention.shift_and_sum import (
    ShiftAndSumAttention,
    averaged,
    copies,
    log2_rows,
)
from lutvar.quant.methods.calibration.resample import difference, resample
from lutvar.quant.methods.calibration.samples import calibration_set, replay
from lutvar.quant.models import LoadedModel, load_model
from lutvar.quant.var import generate
from lutvar.quant.var.sites import LinearSite
from support.quant.method_cases import generates


@pytest.fixture(scope="module")
def digits() -> LoadedModel:
    return load_model("digits")


def copies_one_by_one(v: Tensor, m: int, bits: int) -> Tensor:
    """The released order of operations for one tensor: round m shifted copies, average, clamp."""
    low, high = min(float(v.min()), 0.0), max(float(v.max()), 0.0)
    step = (high - low) / (2**bits - 1)
    zero, total = round(low / step), torch.zeros_like(v)
    for k in range(-m // 2, m // 2):
        total += torch.round(v / step + (2 * k + 1) / (2 * m)) / m
    return (total - zero).clamp(0, 2**bits - 1).add(zero) * step


@pytest.mark.parametrize("m", [2, 4, 8])
def test_averaged_copies_of_integers(m: int) -> None:
    torch.manual_seed(0)
    v = torch.randn(1, 512)
    quantizer = FakeQuantizer(QuantizerSpec(format="INT4", group="row", asymmetric=True))
    ours = averaged(quantizer, v, torch.tensor(float(m)))
    assert torch.allclose(ours, copies_one_by_one(v, m, 4), atol=1e-5)
    step = (v.max() - v.min()) / 15
    inside = (v > ours.min() + step) & (v < ours.max() - step)
    assert inside.float().mean() > 0.9
    assert (ours - v).abs()[inside].max() <= step / (2 * m) * 1.001
    plain = averaged(quantizer, v, torch.tensor(1.0))
    assert torch.equal(plain, quantizer(v))
    assert (plain - v).abs()[inside].max() > 0.9 * step / 2


@pytest.mark.parametrize("name", ["E2M3", "E2M1", "DUAL4"])
def test_averaged_copies_on_a_float_grid(name: str) -> None:
    """Copies rounded one by one to the points around a value; the error bound holds everywhere."""
    torch.manual_seed(1)
    v = torch.randn(64, 64)
    quantizer = FakeQuantizer(QuantizerSpec(format=name, group=64))
    scales = quantizer.scales(v)
    down, up = quantizer.neighbours(v, scales)
    for m in (2, 8):
        total = torch.zeros_like(v)
        for i in range(m):
            shifted = v + (up - down) * (2 * i + 1 - m) / (2 * m)
            total += torch.where(shifted >= (down + up) / 2, up, down)
        ours = averaged(quantizer, v, torch.tensor(float(m)))
        assert (torch.isclose(ours, total / m, atol=1e-6).float().mean()) > 0.999
        inside = (v > down) & (v < up)
        assert ((ours - v).abs() <= (up - down) / (2 * m) * 1.001)[inside].all()
        assert (ours - v).square().mean() < 1.3 / m**2 * (quantizer(v) - v).square().mean()


def test_number_of_copies() -> None:
    theta = 0.1
    score = torch.tensor([0.0, 0.05, 0.1, 0.11, 0.2, 0.21, 0.41, 0.79, 0.81, 1.0])
    assert copies(score, theta).tolist() == [1, 1, 1, 2, 2, 4, 8, 8, 8, 8]
    assert (copies(score, float("inf")) == 1).all()


def test_log2_codes() -> None:
    p = torch.tensor([[0.8, 0.4, 0.2, 0.3, 0.0001, 0.0]])
    expected = [0.8, 0.4, 0.2, 0.4, 0.0, 0.0]  # log2(0.3 / 0.8) = -1.4
    assert log2_rows(p, 3).tolist()[0] == pytest.approx(expected)
    assert log2_rows(p, 4)[0, 4] == pytest.approx(0.8 / 2**13)


def test_threshold_from_the_budget() -> None:
    """Counted token by token for a few thresholds, and the smallest one that fits."""
    torch.manual_seed(2)
    steps = [Scores(torch.rand(2, 3, n) ** 4, q) for n, q in ((1, 1), (5, 4), (14, 9))]
    theta = torch.tensor([0.05, 0.2, 1.0], dtype=torch.float64)
    for t, ours in zip(theta.tolist(), extra_operations(steps, theta, 8, 36).tolist(), strict=True):
        total = 0.0
        for scores, queries in steps:
            B, H, L = scores.shape
            more = 0
            for s in scores.flatten().tolist():
                more += 2 ** min(max(math.ceil(math.log2(s / t)), 0), 3) - 1
            total += H * L * (queries * 16 + 16 + 4)
            total += more * (8 * 16 + queries + queries * 8 * 36) / B
        assert ours == pytest.approx(total)
    budget = float(extra_operations(steps, theta, 8, 36)[1])
    found = find_threshold(steps, budget, 8, 36)
    assert found is not None and found <= 0.2
    around = torch.tensor([found - 1e-4, found], dtype=torch.float64)
    below, at = extra_operations(steps, around, 8, 36).tolist()
    assert at <= budget < below
    assert find_threshold(steps, 1.0, 8, 36) is None


def test_bit_operations_by_hand(digits: LoadedModel) -> None:
    config = digits.var.config
    shapes = {LinearSite(0, "qkv"): (384, 128), LinearSite(0, "ada_lin"): (768, 128)}
    quantized = quantize_var(digits.var, load_recipe("litevar-w4a4"))
    expected = 384 * 128 * 30 * 16 + 768 * 128 * 256
    assert linear_operations(config, shapes, quantized.layers) == expected
    pairs = 1 * 1 + 4 * 5 + 9 * 14 + 16 * 30
    assert attention_operations(config, 16, 36) == 4 * pairs * 128 * (16 + 36)


def test_recipe_finds_its_threshold(digits: LoadedModel) -> None:
    calibration = calibration_set(digits.var, digits.vqvae, 4, seed=0)
    # Learned rounding needs more samples than the threshold, which is what is tested.
    recipe = load_recipe("shift-and-sum-w4a4").model_copy(update={"steps": ()})
    wide = recipe.model_copy(update={"attention": {**(recipe.attention or {}), "alpha": 0.05}})
    tight = recipe.model_copy(update={"attention": {**(recipe.attention or {}), "alpha": 1e-6}})
    thetas = []
    for each in (wide, recipe, tight):
        attention = quantize_var(digits.var, each, calibration).attention
        assert isinstance(attention, ShiftAndSumAttention)
        thetas.append(attention.theta)
        fresh = make_attention(each.attention or {}, digits.var, None)
        assert isinstance(fresh, ShiftAndSumAttention)
        fresh.load_state(attention.state())
        assert fresh.theta == attention.theta and fresh.notes == attention.notes
    assert 0 < thetas[0] < thetas[1] < 1 and thetas[2] == float("inf")
    assert "no copies are made" in attention.notes[0]


def test_copies_lower_the_error_of_attention(digits: LoadedModel) -> None:
    """On the model's own values: the smaller the threshold, the nearer to float values."""
    calibration = calibration_set(digits.var, digits.vqvae, 4, seed=0)
    exact = torch.cat(replay(digits.var, calibration), 1)
    errors = []
    for scale, spec in (("head", {"format": "INT4", "group": "row", "asymmetric": True}),
                        ("token", {"format": "E2M1", "group": "row"})):  # fmt: skip
        for theta in (1.0, 0.05, 0.0001):
            settings = {"kind": "shift-and-sum", "v": spec, "v_scale": scale, "theta": theta}
            quantized = quantize_var(digits.var, Recipe(name="v", attention=settings))
            with quantized.installed(digits.var) as var:
                logits = torch.cat(replay(var, calibration), 1)
            errors.append(float((logits - exact).norm()))
    assert errors[1] < 0.9 * errors[0] and errors[2] < 0.5 * errors[0]
    assert errors[4] < 0.9 * errors[3] and errors[5] < 0.5 * errors[3]


def random_case(seed: int = 3) -> tuple[Tensor, Tensor, list[torch.Generator]]:
    draw = torch.Generator().manual_seed(seed)
    prob = (torch.randn(6, 40, 12, generator=draw) * 1.5).softmax(-1)
    prob[..., 11] = 0
    prob /= prob.sum(-1, keepdim=True)
    tokens = torch.multinomial(prob.flatten(0, 1), 1, generator=draw).view(6, 40)
    return tokens, prob, [torch.Generator().manual_seed(i) for i in range(6)]


def test_resampling_reaches_its_targets() -> None:
    tokens, prob, generators = random_case()
    before = difference(tokens, prob, "code")
    moved = resample(tokens, prob, generators, "code")
    after = difference(moved, prob, "code")
    assert before.excess_V.sum() > 5
    assert not after.excess_V.any() and not after.missing_V.any()
    # Only as many tokens as needed moved, all from frequent to rare entries.
    changed = moved != tokens
    assert int(changed.sum()) == int(before.excess_V.sum())
    assert (before.excess_V[tokens[changed]] > 0).all()
    assert (before.missing_V[moved[changed]] > 0).all()
    assert prob.gather(-1, moved.unsqueeze(-1)).min() > 0
    again = resample(tokens, prob, [torch.Generator().manual_seed(i) for i in range(6)], "code")
    assert torch.equal(moved, again)


def test_resampling_by_the_rule_of_the_paper() -> None:
    tokens, prob, generators = random_case(5)
    wanted = prob.double().mean((0, 1)) * tokens.numel()
    before = torch.bincount(tokens.flatten(), minlength=12) - wanted
    moved = resample(tokens, prob, generators, "paper")
    after = torch.bincount(moved.flatten(), minlength=12) - wanted
    assert before.abs().max() > 3
    assert after.abs().sum() < 0.5 * before.abs().sum()
    # One side is used up: entries move by whole tokens and stop within one of the target.
    assert after.max() < 1 or after.min() > -1
    with pytest.raises(ValueError, match="finite ones for every token"):
        resample(tokens, prob * float("nan"), generators, "paper")


def test_resampled_calibration(digits: LoadedModel) -> None:
    plain = calibration_set(digits.var, digits.vqvae, 8, seed=1)
    for rule in ("code", "paper"):
        moved = calibration_set(digits.var, digits.vqvae, 8, seed=1, resample=rule)
        changed = int((moved.tokens_NL != plain.tokens_NL).sum())
        assert 0 < changed < plain.tokens_NL.numel() // 4
        assert moved.notes == (f"resampled {changed} of 240 tokens",)
        assert not torch.equal(moved.inputs_NLZ, plain.inputs_NLZ)


def test_classes_drawn_at_random(digits: LoadedModel) -> None:
    """As the released code draws them, each image from a stream of its own."""
    np.random.seed(2025)
    first = np.random.choice(10, 10, replace=False).tolist()
    drawn = calibration_set(digits.var, digits.vqvae, 12, seed=2025, draw="random", resample="code")
    assert drawn.labels_N.tolist() == [*first, *first[:2]]
    plain = calibration_set(digits.var, digits.vqvae, 12, seed=2025, draw="random")
    for n, seed in ((3, 2025 + first[3]), (11, 2025 + first[1] + 10)):
        alone = generate(digits.var, digits.vqvae, [first[n % 10]], seed)
        assert torch.equal(torch.cat(alone.tokens, 1)[0], plain.tokens_NL[n])
    changed = int((drawn.tokens_NL != plain.tokens_NL).sum())
    assert drawn.notes == (f"resampled {changed} of 360 tokens",) and 0 < changed < 90


def test_values_stay_float_in_the_cache(digits: LoadedModel) -> None:
    quantized = quantize_var(
        digits.var,
        load_recipe("fpqvar-fp4-shift-and-sum"),
        calibration_set(digits.var, digits.vqvae, 8, seed=0),
    )
    with quantized.installed(digits.var) as var:
        cache = var.cache_factory(0)
        k, v = torch.randn(1, 2, 3, 64), torch.randn(1, 2, 3, 64)
        cache.append(k, v)
        assert cache.v_BHLc is not None and cache.k_BHLc is not None
        assert torch.equal(cache.v_BHLc, v) and not torch.equal(cache.k_BHLc, k)


@pytest.mark.slow
def test_recipes_generate(digits: LoadedModel) -> None:
    four, six = (generates(digits, f"shift-and-sum-w{b}a{b}") for b in (4, 6))
    assert 0 < six < 0.6 * four < 0.1
    assert 0 < generates(digits, "fpqvar-fp4-shift-and-sum") < 0.2
