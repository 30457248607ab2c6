# SPDX-License-Identifier: Apache-2.0
"""The exact FPQVAR recipes against logits of the released code (data/fpqvar.npz).

Both quantize weights in float32 and run in float64, so that rounding does not decide.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from lutvar.contract.formats import get_format
from lutvar.quant.formats.quantize import quantize
from lutvar.quant.methods import (
    Block,
    CalibrationError,
    FakeQuantizer,
    Layer,
    QuantizerSpec,
    Recipe,
    load_recipe,
    quantize_var,
)
from lutvar.quant.methods.attention.cache import CacheSpec, QuantizedCache
from lutvar.quant.methods.layers.operations import scale_channels
from lutvar.quant.methods.steps import make_step
from lutvar.quant.methods.steps.factors import FactorsError
from lutvar.quant.methods.steps.galt import Galt, learn
from lutvar.quant.var import Var, Vqvae
from lutvar.quant.var.forcing import forced_logits
from lutvar.quant.var.sites import LinearSite
from support.quant.official_cases import (
    FPQVAR,
    LABELS,
    VAR,
    FpqvarCase,
    case_models,
    compact,
    factors,
    given_tokens,
    in_float64,
)

DATA = Path(__file__).parent / "data" / "fpqvar.npz"


@pytest.fixture(scope="module")
def models() -> tuple[Var, Vqvae]:
    return case_models()


def given_factors(recipe: Recipe, case: FpqvarCase, folder: Path) -> Recipe:
    """The recipe with the factors of a file instead of learned ones."""
    path = folder / "factors.pt"
    torch.save({f"{n}.{i}": s for n, all_s in factors(case.signed).items()
                for i, s in enumerate(all_s)}, path)  # fmt: skip
    replacement = {"step": "factors", "path": path, "replace": "keep"}
    steps = [replacement if step["step"] == "galt" else step for step in recipe.steps]
    return recipe.model_copy(update={"steps": tuple(steps)})


def logits(models: tuple[Var, Vqvae], recipe: Recipe) -> Tensor:
    """Of both halves under the given tokens, [4, L, vocab]."""
    var, vqvae = models
    labels = torch.tensor([*LABELS, *[VAR.num_classes] * len(LABELS)])
    quantized = quantize_var(var, recipe)
    with in_float64(quantized, var, vqvae), quantized.installed(var) as installed:
        return torch.cat(forced_logits(installed, vqvae, labels, given_tokens().repeat(2, 1)), 1)


@pytest.mark.parametrize("case", FPQVAR, ids=[case.key for case in FPQVAR])
def test_logits_of_the_released_code(
    case: FpqvarCase, models: tuple[Var, Vqvae], tmp_path: Path
) -> None:
    with np.load(DATA) as file:
        expected = file[case.key]
    recipe = given_factors(load_recipe(case.recipe), case, tmp_path)
    if case.heads and recipe.cache is not None:
        cache = recipe.cache.model_copy(update={"memory": "heads"})
        recipe = recipe.model_copy(update={"cache": cache})
    found = compact(logits(models, recipe))
    error = np.linalg.norm(found - expected) / np.linalg.norm(expected)
    assert error < 1e-6


@pytest.mark.parametrize("name", ["E2M1", "E1M2", "E3M0", "E2M3", "E3M2", "DUAL4", "DUAL6"])
def test_rule_fpqvar_is_that_of_the_exact_quantizer(name: str) -> None:
    """Ties of both signs, ends of the grid and groups of zeros among random values."""
    fmt = get_format(name)
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(40, 128, generator=draw)
    top = float(fmt.max_value())
    for row in range(8):  # multiples of a quarter step with the end of the grid among them
        steps = torch.randint(
            -4 * fmt.positive.top, 4 * fmt.positive.top + 1, (128,), generator=draw
        )
        x[row] = (steps * float(fmt.positive.unit) / 4).clamp(-top, top)
        x[row, 0] = top
    x[8], x[9], x[10, ::2] = 0, x[9].abs(), 0
    for group in (128, "row"):
        spec = QuantizerSpec(format=name, group=group, exact_rule="fpqvar")
        exact = quantize(x, fmt, scale_rule="fpqvar").dequantize()
        assert torch.equal(FakeQuantizer(spec)(x), exact)
        half = FakeQuantizer(spec.model_copy(update={"half": True}))(x)
        assert torch.equal(half, exact.half().float())
    even = FakeQuantizer(QuantizerSpec(format=name))(x)
    assert 0 < int((even != exact).sum()) < x.numel() // 4


def test_cache_as_released() -> None:
    """All of it again at every step, by hand; the layouts share scales as they say."""
    draw = torch.Generator().manual_seed(1)
    steps = [torch.randn(2, 2, n, 64, generator=draw) for n in (1, 4, 9)]
    settings = {"format": "E2M1", "group": 128, "exact_rule": "fpqvar"}
    for memory in ("tokens", "heads"):
        cache = QuantizedCache(CacheSpec(**settings, again=True, memory=memory))
        used = [cache.append(x, -x)[0] for x in steps]
        assert torch.equal(used[0], steps[0])
        first = FakeQuantizer(QuantizerSpec(**settings))(steps[0].flatten()).view(2, 2, 1, 64)
        assert torch.equal(used[1], torch.cat((first, steps[1]), 2))
        kept = used[1] if memory == "tokens" else used[1].transpose(1, 2)
        groups = kept.reshape(-1, 128)
        scale = groups.abs().amax(-1, keepdim=True) / 6
        codes = FakeQuantizer(QuantizerSpec(**settings))(groups) / scale
        again = (codes * scale).view(kept.shape)
        again = again if memory == "tokens" else again.transpose(1, 2)
        assert torch.allclose(used[2], torch.cat((again, steps[2]), 2), atol=1e-6)
        assert torch.equal(cache.v_BHLc, -used[2])  # type: ignore[arg-type]
    row = QuantizedCache(CacheSpec(format="E2M3", group="row"))
    for x in steps:
        all_k, _ = row.append(x, x)
    once = FakeQuantizer(QuantizerSpec(format="E2M3", group="row"))
    assert torch.equal(all_k, torch.cat([*map(once, steps[:2]), steps[2]], 2))


def test_factors_keep_their_sign(tmp_path: Path) -> None:
    """Float results stay, the rotated operand is another one, and 0 is refused."""
    s_I = torch.linspace(0.5, 2, 128)
    s_I[3] = -0.7
    torch.save({"qkv.0": s_I}, tmp_path / "s.pt")
    weight_OI, x = torch.randn(8, 128), torch.randn(1, 4, 128)
    prepared = {}
    for replace in ("keep", "magnitude"):
        layer = Layer(LinearSite(0, "qkv"), weight_OI, None)
        block = Block(0, {"qkv": layer}, None, None)
        for step in ({"step": "factors", "path": tmp_path / "s.pt", "replace": replace},
                     {"step": "hadamard"}):  # fmt: skip
            make_step(step).apply(block)
        layer.finish()
        assert torch.allclose(layer(x, 0), x @ weight_OI.mT, atol=1e-4)
        prepared[replace] = layer.prepared(x)
    assert (prepared["keep"] - prepared["magnitude"]).abs().max() > 0.01
    s_I[5] = 0
    torch.save({"qkv.0": s_I}, tmp_path / "s.pt")
    layer = Layer(LinearSite(0, "qkv"), weight_OI, None)
    factors_step = make_step({"step": "factors", "path": tmp_path / "s.pt", "replace": "keep"})
    with pytest.raises(FactorsError, match="factors that are 0 or not finite"):
        factors_step.apply(Block(0, {"qkv": layer}, None, None))


def test_learned_factors_may_change_sign() -> None:
    """A linear parameter that is pushed below 0 stops without `signed` and goes on with it."""
    draw = torch.Generator().manual_seed(2)
    x_RI, weight_OI = torch.randn(64, 128, generator=draw), torch.randn(8, 128, generator=draw)
    spec = QuantizerSpec(format="E2M1")
    settings: dict[str, Any] = {
        "step": "galt", "rate": 0.4, "epochs": 20, "parameter": "linear", "start": "one",
        "schedule": "constant", "last": True,
    }  # fmt: skip
    layer = Layer(LinearSite(0, "qkv"), weight_OI, None, activation=FakeQuantizer(spec),
                  weight=FakeQuantizer(spec))  # fmt: skip
    with pytest.raises(CalibrationError, match="finite and above 0"):
        learn(Galt(**settings), layer, [x_RI], None)
    found = learn(Galt(**settings, signed=True), layer, [x_RI], None)
    assert float(found.s_I.min()) < 0 < float(found.s_I.max())
    scale_channels(layer, found.s_I, signed=True)
    assert torch.allclose(layer.prepared(x_RI) @ layer.weight_OI.mT, x_RI @ weight_OI.mT, atol=1e-3)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"format": "INT4", "asymmetric": True, "exact_rule": "fpqvar"}, "absolute maxima alone"),
        ({"format": "E2M1", "clip": 0.9, "exact_rule": "fpqvar"}, "absolute maxima alone"),
        ({"format": "INT4", "zero": "free"}, "zero: free needs asymmetric: true"),
    ],
)
def test_settings_that_do_not_go_together(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        QuantizerSpec(**settings)
