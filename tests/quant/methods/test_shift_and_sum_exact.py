# SPDX-License-Identifier: Apache-2.0
"""The exact Shift-and-Sum recipes against figures of the released code (data/shift_and_sum.npz).

Both quantize weights in float32 and run in float64, so that rounding does not decide.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from lutvar.quant.methods import (
    CalibrationError,
    FakeQuantizer,
    QuantizedVar,
    QuantizerSpec,
    Recipe,
    quantize_var,
)
from lutvar.quant.methods.attention.bit_operations import (
    attention_operations,
    linear_operations,
)
from lutvar.quant.methods.attention.registry import MeasuredModel, make_attention
from lutvar.quant.methods.attention.shift_and_sum import ShiftAndSumAttention
from lutvar.quant.methods.recipes.build import iter_linears
from lutvar.quant.var import Var, Vqvae
from lutvar.quant.var.forcing import forced_logits
from support.quant.official_cases import (
    LABELS,
    VAR,
    case_models,
    compact,
    exact_recipe,
    given_tokens,
    in_float64,
    samples,
)

DATA = Path(__file__).parent / "data" / "shift_and_sum.npz"
BITS = (4, 6)


@pytest.fixture(scope="module")
def models() -> tuple[Var, Vqvae]:
    return case_models()


@pytest.fixture(scope="module")
def expected() -> dict[str, np.ndarray]:
    with np.load(DATA) as file:
        return dict(file)


def rounded(var: Var, recipe: Recipe) -> QuantizedVar:
    """The recipe's layers without its attention."""
    return quantize_var(var, recipe.model_copy(update={"attention": None}))


def measured(
    models: tuple[Var, Vqvae], recipe: Recipe, proj_input: bool = False
) -> tuple[QuantizedVar, float]:
    """The quantized model with its threshold, found in float64, and that threshold.

    The input of proj stays float unless `proj_input` is true, see `make_shift_and_sum`.
    """
    var, vqvae = models
    whole = rounded(var, recipe)
    shapes = {site: (w.shape[0], w.shape[1]) for i in range(VAR.depth + 1)
              for site, w, _ in iter_linears(var, i)}  # fmt: skip
    running = {
        site: replace(layer, activation=None) if site.name == "proj" else layer
        for site, layer in whole.layers.items()
    }
    quantized = whole if proj_input else QuantizedVar(whole.recipe, running)
    with in_float64(quantized, var, vqvae):
        calibration = samples(var, vqvae)
        method = make_attention(recipe.attention or {}, var, calibration)
        assert isinstance(method, ShiftAndSumAttention)
        quantized.attention = method
        with quantized.installed(var) as installed:
            method.measure(MeasuredModel(installed, shapes, whole.layers, calibration))
    return quantized, method.theta


def distance(models: tuple[Var, Vqvae], quantized: QuantizedVar, wanted: np.ndarray) -> float:
    """Relative distance of the logits under given tokens, in float64."""
    var, vqvae = models
    labels = torch.tensor([*LABELS, *[VAR.num_classes] * len(LABELS)])
    with in_float64(quantized, var, vqvae), quantized.installed(var) as installed:
        logits = forced_logits(installed, vqvae, labels, given_tokens().repeat(2, 1))
    found = compact(torch.cat(logits, 1))
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


@pytest.mark.parametrize("bits", BITS)
def test_bit_operations_of_the_released_code(
    bits: int, models: tuple[Var, Vqvae], expected: dict[str, np.ndarray]
) -> None:
    """With AdaLN at every scale step they are equal, with AdaLN once they are fewer."""
    var, _ = models
    layers = rounded(var, exact_recipe(bits)).layers
    shapes = {site: (layer.weight_OI.shape[0], layer.weight_OI.shape[1])
              for site, layer in layers.items()}  # fmt: skip
    product = attention_operations(VAR, bits * bits, bits * bits)
    steps = len(VAR.patch_nums)
    total = linear_operations(VAR, shapes, layers, steps) + product
    assert total == float(expected[f"w{bits}a{bits}.total"])
    assert linear_operations(VAR, shapes, layers) + product < 0.98 * total


@pytest.mark.parametrize("bits", BITS)
def test_threshold_and_logits_of_the_released_code(
    bits: int, models: tuple[Var, Vqvae], expected: dict[str, np.ndarray]
) -> None:
    """The threshold on tokens that the quantized model draws, then logits under given tokens."""
    quantized, theta = measured(models, exact_recipe(bits))
    assert theta == pytest.approx(float(expected[f"w{bits}a{bits}.theta"]), abs=1e-6)
    assert distance(models, quantized, expected[f"w{bits}a{bits}.logits"]) < 1e-6


def test_whole_model_of_the_released_code(
    models: tuple[Var, Vqvae], expected: dict[str, np.ndarray]
) -> None:
    """The input of proj quantized too: up to its ties, which other rules are far beyond."""
    errors = []
    for keys in ("channel", "token"):
        recipe = exact_recipe(6)
        attention = {**(recipe.attention or {}), "k_scale": keys}
        attention["theta"] = float(expected["w6a6.theta"])
        recipe = recipe.model_copy(update={"attention": attention})
        quantized, _ = measured(models, recipe, proj_input=True)
        errors.append(distance(models, quantized, expected["w6a6.whole"]))
    assert errors[0] < 0.015 < 0.03 < errors[1]


def by_definition(x: Tensor, bits: int, clamp: bool) -> Tensor:
    """The released quantizer of one range, value by value."""
    low, high = float(x.min()), float(x.max())
    step = max((high - low) / (2**bits - 1), 1e-6)
    zero = -round(low / step)
    if clamp:
        zero = min(max(zero, 0), 2**bits - 1)
    codes = [min(max(round(v / step) + zero, 0), 2**bits - 1) for v in x.flatten().tolist()]
    return torch.tensor([(code - zero) * step for code in codes]).view(x.shape)


@pytest.mark.parametrize(("low", "high"), [(-1.0, 2.0), (2.0, 3.0), (-5.0, -4.5)])
def test_ranges_that_need_not_contain_zero(low: float, high: float) -> None:
    draw = torch.Generator().manual_seed(0)
    x = torch.rand(3, 64, generator=draw) * (high - low) + low
    for zero in ("free", "clamp"):
        spec = QuantizerSpec(format="INT4", group="row", asymmetric=True, zero=zero, floor=1e-6)
        wanted = torch.stack([by_definition(row, 4, zero == "clamp") for row in x])
        assert torch.allclose(FakeQuantizer(spec)(x), wanted, atol=1e-6)
    free = QuantizerSpec(format="INT4", group="row", asymmetric=True, zero="free")
    wide = free.model_copy(update={"zero": "widen"})
    errors = [float((FakeQuantizer(s)(x) - x).square().mean()) for s in (free, wide)]
    assert errors[0] <= errors[1] * (1.0 if low < 0 < high else 0.2)


def test_keys_by_channel(models: tuple[Var, Vqvae]) -> None:
    """Each channel of a head has one range over all tokens; by token it is the row of a token."""
    draw = torch.Generator().manual_seed(1)
    k_BHLc = torch.randn(2, 3, 7, 8, generator=draw) * torch.logspace(-1, 1, 8)
    spec = {"format": "INT6", "group": "row", "asymmetric": True}
    for scale, axis in (("channel", 2), ("token", 3)):
        method = make_attention({"kind": "plain", "k": spec, "k_scale": scale}, models[0], None)
        found = method._quantized("k", k_BHLc)  # type: ignore[attr-defined]
        for row, exact in zip(found.movedim(axis, -1).flatten(0, 2),
                              k_BHLc.movedim(axis, -1).flatten(0, 2), strict=True):  # fmt: skip
            low, high = min(float(exact.min()), 0.0), max(float(exact.max()), 0.0)
            assert (row - exact).abs().max() <= (high - low) / 63 * 0.5001
    assert len(found.flatten().unique()) > 64


def test_free_running_search_needs_the_tokenizer(models: tuple[Var, Vqvae]) -> None:
    var, vqvae = models
    without = replace(samples(var, vqvae), vqvae=None)
    with pytest.raises(CalibrationError, match="samples that know their tokenizer"):
        quantize_var(var, exact_recipe(4), without)


def test_keys_by_channel_need_rows() -> None:
    for k in (None, {"format": "INT4", "group": 64}):
        attention = {"kind": "plain", "k_scale": "channel", "k": k}
        with pytest.raises(ValueError, match="channel needs a quantizer k with group: row"):
            Recipe.model_validate({"name": "k", "attention": attention})
