# SPDX-License-Identifier: Apache-2.0
"""Small layers, blocks and a generation for the tests of single methods."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lutvar.quant.methods import (
    Block,
    FakeQuantizer,
    Layer,
    QuantizedVar,
    QuantizerSpec,
    calibration_set,
    load_recipe,
    quantize_var,
)
from lutvar.quant.methods.layers.layer import BlockData
from lutvar.quant.models import LoadedModel
from lutvar.quant.var import generate
from lutvar.quant.var.sites import LinearSite, SiteName

SCALES = ((0, 1), (1, 5), (5, 14))


def one_layer(
    name: SiteName, x_BLI: Tensor, bits: int = 4, outputs: int = 24, seed: int = 0
) -> tuple[Layer, Block]:
    """A layer with random weight and asymmetric integer quantizers, in a block with its data."""
    draw = torch.Generator().manual_seed(seed)
    weight = torch.randn(outputs, x_BLI.shape[-1], generator=draw) / x_BLI.shape[-1] ** 0.5
    row = QuantizerSpec(format=f"INT{bits}", group="row", asymmetric=True)
    layer = Layer(
        LinearSite(0, name), weight, torch.randn(outputs, generator=draw),
        activation=FakeQuantizer(row), weight=FakeQuantizer(row),
    )  # fmt: skip
    mask = torch.zeros(1, 1, x_BLI.shape[1], x_BLI.shape[1])
    labels = torch.zeros(len(x_BLI), dtype=torch.long)
    data = BlockData(None, None, mask, {name: x_BLI}, SCALES, labels)
    return layer, Block(0, {name: layer}, None, data)


def outliers(samples: int = 8, channels: int = 32, seed: int = 1) -> Tensor:
    """Inputs [samples, 14, channels] whose channels differ in width and centre."""
    draw = torch.Generator().manual_seed(seed)
    width = torch.logspace(-1, 1, channels)
    centre = torch.randn(channels, generator=draw) * width
    return torch.randn(samples, 14, channels, generator=draw) * width + centre


def error(layer: Layer, x_BLI: Tensor, exact: Tensor) -> float:
    """Mean squared error of a finished layer's output, scale by scale."""
    parts = [layer(x_BLI[:, a:b], k) for k, (a, b) in enumerate(SCALES)]
    return float((torch.cat(parts, 1) - exact).square().mean())


def float_output(layer: Layer, x_BLI: Tensor) -> Tensor:
    """What the layer computes before any step."""
    return torch.nn.functional.linear(x_BLI, layer.weight_OI, layer.bias_O)


def generated(
    model: LoadedModel, name: str, samples: int = 4, quick: dict[str, Any] | None = None
) -> tuple[QuantizedVar, list[float]]:
    """Build a shipped recipe and generate two images: relative error of each scale's logits.

    `quick` replaces settings of steps that have them, so that searches are short.
    """
    recipe = load_recipe(name)
    steps = [{k: (quick or {}).get(k, v) for k, v in step.items()} for step in recipe.steps]
    recipe = recipe.model_copy(update={"steps": tuple(steps)})
    calibration = None
    if recipe.needs_data:
        calibration = calibration_set(model.var, model.vqvae, samples, seed=0)
    quantized = quantize_var(model.var, recipe, calibration)
    plain = generate(model.var, model.vqvae, [3, 7], seed=1, keep_logits=True)
    with quantized.installed(model.var) as var:
        result = generate(var, model.vqvae, [3, 7], seed=1, keep_logits=True)
    assert plain.logits and result.logits
    assert all(bool(logits.isfinite().all()) for logits in result.logits)
    return quantized, [
        float((a - b).norm() / a.norm()) for a, b in zip(plain.logits, result.logits, strict=True)
    ]
