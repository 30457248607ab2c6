# SPDX-License-Identifier: Apache-2.0
"""Layers, blocks and comparisons that the tests of several methods use."""

from __future__ import annotations

import torch
from torch import Tensor

from lutvar.quant.methods import (
    Block,
    CalibrationSet,
    FakeQuantizer,
    Layer,
    QuantizerSpec,
    load_recipe,
    prepare_calibration,
    quantize_var,
)
from lutvar.quant.methods.calibration.samples import replay
from lutvar.quant.methods.layers.layer import BlockData
from lutvar.quant.models import LoadedModel
from lutvar.quant.var import generate
from lutvar.quant.var.sites import LinearSite, SiteName

SCALES = ((0, 1), (1, 5), (5, 14))


def make_block(
    name: SiteName,
    x_BLI: Tensor,
    weight_OI: Tensor,
    bits: int = 6,
    scales: tuple[tuple[int, int], ...] = SCALES,
) -> tuple[Block, Layer]:
    """A block with one layer of asymmetric integers and its inputs."""
    row = QuantizerSpec(format=f"INT{bits}", group="row", asymmetric=True)
    layer = Layer(
        LinearSite(0, name),
        weight_OI,
        torch.zeros(weight_OI.shape[0]),
        activation=FakeQuantizer(row),
        weight=FakeQuantizer(row.model_copy(update={"percentile": True})),
    )
    labels = torch.zeros(len(x_BLI), dtype=torch.long)
    data = BlockData(None, None, torch.zeros(1, 1, 1, 1), {name: x_BLI}, scales, labels)
    return Block(0, {name: layer}, None, data), layer


def outlier_inputs(rows: int = 8, channels: int = 64, seed: int = 0) -> Tensor:
    """[rows, 14, channels] with a few wide and off-centre channels and a large first token."""
    torch.manual_seed(seed)
    x_BLI = torch.randn(rows, 14, channels)
    x_BLI[..., :3] = x_BLI[..., :3] * 12 + 20
    x_BLI[:, 0] *= 5
    return x_BLI


def generates(model: LoadedModel, name: str, calibration: CalibrationSet | None = None) -> float:
    """Build a recipe, generate 2 images and give the relative error of given tokens' logits."""
    recipe = load_recipe(name)
    if recipe.needs_data and calibration is None:
        spec = recipe.calibration.model_copy(update={"samples": 16})
        calibration = prepare_calibration(model.var, model.vqvae, spec)
    quantized = quantize_var(model.var, recipe, calibration)
    given = prepare_calibration(model.var, model.vqvae, recipe.calibration.model_copy(
        update={"samples": 4, "seed": 9, "select": None, "resample": None}))  # fmt: skip
    plain = torch.cat(list(replay(model.var, given)), 1)
    with quantized.installed(model.var) as var:
        images = generate(var, model.vqvae, [3, 4], seed=1).images_BCHW
        logits = torch.cat(list(replay(var, given)), 1)
    assert images.shape[0] == 2 and bool(images.isfinite().all())
    return float((logits - plain).norm() / plain.norm())
