# SPDX-License-Identifier: Apache-2.0
"""torch's default type is the caller's own business: it changes no result."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

from lutvar.contract.formats import get_format
from lutvar.contract.quant_preset import load_quant
from lutvar.quant.eval.scores import class_score
from lutvar.quant.formats.quantize import quantize
from lutvar.quant.formats.scales import ScaleRule
from lutvar.quant.methods import load_recipe
from lutvar.quant.methods.calibration.prepare import prepare_calibration
from lutvar.quant.methods.recipes.build import quantize_var
from lutvar.quant.models import LoadedModel, load_model
from lutvar.quant.ptq.model import quantize_model
from lutvar.quant.var import generate
from lutvar.quant.var.passes import FloatTransformer, generate_passes

SAMPLING = (1.5, 16, 0.9)
#: One with a rotation and a KV cache, and those whose steps make tensors of their own.
RECIPES = ("fpqvar-fp4-kv6", "gptq-fp4", "noisyquant-w4a4", "adalog-w4a4", "omniquant-w4a4")


@contextmanager
def default(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def recipe_images(model: LoadedModel, name: str) -> Tensor:
    """Images of a recipe with few samples and training steps."""
    recipe, samples = load_recipe(name), None
    if recipe.needs_data:
        few = recipe.calibration.model_copy(update={"samples": 10, "steps": None})
        steps = [{**s, "steps": 2} if s.get("steps", 0) > 2 else s for s in recipe.steps]
        recipe = recipe.model_copy(update={"calibration": few, "steps": tuple(steps)})
        samples = prepare_calibration(model.var, model.vqvae, few, *SAMPLING)
    made = quantize_var(model.var, recipe, samples)
    with made.installed(model.var) as var:
        return generate(var, model.vqvae, [3, 7], [0, 1], *SAMPLING).images_BCHW


def results() -> dict[str, Any]:
    """Results of all parts, under the default type of now."""
    model = load_model("digits")
    var, vqvae = model.var, model.vqvae
    made: dict[str, Any] = dict(var.state_dict()) | dict(vqvae.state_dict())
    made["together"] = generate(var, vqvae, [3, 7], 5, *SAMPLING).images_BCHW
    made["alone"] = generate(var, vqvae, [3, 7], [0, 1], *SAMPLING).images_BCHW
    steps = generate_passes(var, vqvae, FloatTransformer(var), [3, 7], [0, 1], *SAMPLING)
    made["passes"] = steps.images_BCHW
    judge = model.classifier()
    logits_BK = judge(made["alone"])
    made["judged"], made["score"] = logits_BK, class_score(logits_BK, 1).mean
    x = torch.randn(4, 256, generator=torch.Generator().manual_seed(0), dtype=torch.float32)
    for rule in ScaleRule:
        quantized = quantize(x, get_format("DUAL4"), scale_rule=rule)
        made[f"{rule} codes"], made[f"{rule} values"] = quantized.codes, quantized.dequantize()
    config = load_quant("fp4")
    for site, layer in quantize_model(var, config).layers.items():
        for name in ("codes", "scales", "bias"):
            made[f"{site} {name}"] = torch.from_numpy(getattr(layer, name))
    for name in RECIPES:
        made[name] = recipe_images(model, name)
    return made


@pytest.fixture(scope="module")
def wanted() -> dict[str, Any]:
    with default(torch.float32):
        return results()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_results_do_not_depend_on_it(dtype: torch.dtype, wanted: dict[str, Any]) -> None:
    with default(dtype):
        found = results()
    for name, value in wanted.items():
        if isinstance(value, Tensor):
            assert found[name].dtype == value.dtype, name
            assert torch.equal(found[name], value), name
        else:
            assert found[name] == value, name
