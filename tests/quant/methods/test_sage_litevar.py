# SPDX-License-Identifier: Apache-2.0
"""SageAttention2's means and LiteVAR's mixed precision and shared halves."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from lutvar.quant.methods import Recipe, load_recipe, quantize_var
from lutvar.quant.methods.attention.registry import make_attention
from lutvar.quant.methods.attention.sage import SageAttention
from lutvar.quant.methods.calibration.samples import calibration_set, replay
from lutvar.quant.models import LoadedModel, load_model
from lutvar.quant.var import generate
from lutvar.quant.var.sites import AttentionOperands
from support.quant.method_cases import generates


@pytest.fixture(scope="module")
def digits() -> LoadedModel:
    return load_model("digits")


def operands() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Keys and queries with a large common part, as the paper finds them."""
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 2, n, 64) * 0.3 for n in (9, 14, 14))
    return q + torch.randn(1, 2, 1, 64) * 2, k + torch.randn(1, 2, 1, 64) * 2, v


def run(settings: dict[str, object], model: LoadedModel) -> torch.Tensor:
    q, k, v = operands()
    attention = make_attention({"kind": "sage", **settings}, model.var, None)
    return attention(0, AttentionOperands(q, k, v, None, 0.25))


def test_means_change_nothing_without_quantizers(digits: LoadedModel) -> None:
    q, k, v = operands()
    exact = torch.softmax(q @ k.mT * 0.25, -1) @ v
    floats = {"q": None, "k": None, "v": None, "probabilities": None}
    for block in (128, 4):
        assert torch.allclose(run({**floats, "block": block}, digits), exact, atol=1e-4)


def test_means_lower_the_error(digits: LoadedModel) -> None:
    q, k, v = operands()
    exact = torch.softmax(q @ k.mT * 0.25, -1) @ v
    errors = [
        float((run({"smooth_k": sk, "smooth_q": sq}, digits) - exact).norm() / exact.norm())
        for sk, sq in ((False, False), (True, False), (True, True))
    ]
    assert errors[2] < 0.7 * errors[1] < 0.49 * errors[0]


def test_block_means_by_hand(digits: LoadedModel) -> None:
    made = make_attention({"kind": "sage", "block": 4}, digits.var, None)
    assert isinstance(made, SageAttention)
    q = torch.arange(9.0).view(1, 1, 9, 1)
    assert made._block_mean(q).flatten().tolist() == [1.5] * 4 + [5.5] * 4 + [8.0]


def test_litevar_leaves_what_it_says_in_float(digits: LoadedModel) -> None:
    for bits, size in ((4, 128), (6, "row")):
        recipe = load_recipe(f"litevar-w{bits}a{bits}")
        coverage = recipe.coverage()
        assert [n for n, c in coverage.items() if c != "float"] == ["qkv", "proj", "fc1"]
        assert coverage["qkv"] == f"W{bits}A{bits}"
        assert recipe.layers["fc1"].weight is not None
        assert recipe.layers["fc1"].weight.group == size


def test_shared_halves(digits: LoadedModel) -> None:
    """The unconditional half takes the conditional attention in generation, and only there."""
    recipe = Recipe(name="share", attention={"kind": "plain", "share_halves": True})
    quantized = quantize_var(digits.var, recipe)
    calibration = calibration_set(digits.var, digits.vqvae, 3, seed=0)
    alone = calibration.with_rows(6)
    plain = torch.cat(replay(digits.var, alone), 1)
    conditional = torch.cat(replay(digits.var, alone, slice(0, 3)), 1)
    seen = []
    with quantized.installed(digits.var) as var:
        inner: Any = quantized.attention
        assert inner is not None

        class Watching:
            def __call__(self, *args: Any) -> Any:
                seen.append(inner(*args))
                return seen[-1]

        backends: Any = var.backends
        backends.attention = Watching()
        both = torch.cat(replay(var, alone), 1)
        only = torch.cat(replay(var, alone, slice(0, 3)), 1)
        generate(var, digits.vqvae, [1], seed=0)
    assert torch.equal(seen[0][:3], seen[0][3:])
    assert torch.allclose(both[:3], plain[:3], atol=1e-3)
    assert not torch.allclose(both[3:], plain[3:], atol=1e-2)
    assert torch.allclose(only, conditional, atol=1e-3)
    assert torch.equal(seen[-1][:1], seen[-1][1:])


def test_recipes_generate(digits: LoadedModel) -> None:
    four, six = (generates(digits, f"litevar-w{b}a{b}") for b in (4, 6))
    assert 0 < six < 0.5 * four < 0.1
    assert 0 < generates(digits, "sage-attention-int4") < 0.2
