# SPDX-License-Identifier: Apache-2.0
"""Calibration of the whole model at once: ranges that are found while the quantized model runs.

Source: PTQ4ARVG (arXiv:2601.21238), released code: all tokens of all scales run together, batch
after batch; the range of every quantizer follows what comes in, and what comes in has already been
quantized by everything before it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lutvar.quant.methods.generator import Model, generator_of
from lutvar.quant.methods.layers.layer import Block, Layer
from lutvar.quant.methods.quantizers.percentiles import (
    ZeroPoints,
    average_range,
    percentile_range,
)
from lutvar.quant.methods.quantizers.static import StaticQuantizer
from lutvar.quant.var import Var
from lutvar.quant.var.blocks import VarBlock
from lutvar.quant.var.sites import AttentionBackend, LinearSite, SiteName

from .fixed_range import FixedRange
from .rows import row_order
from .samples import CalibrationSet, data_by_block

Parts = tuple[tuple[int, int], ...]


@dataclass
class WholeModel:
    """What a step that works on the whole model sees.

    Attributes:
        var: the float model; steps must not change it.
        blocks: block (the number of blocks for the linears outside) -> name -> layer.
        calibration: the samples.
        masked: whether tokens see coarser scales and their own alone while they calibrate.
        attention: the recipe's settings of attention, or None.
        seed: for random choices.
    """

    var: Model
    blocks: Mapping[int, dict[SiteName, Layer]]
    calibration: CalibrationSet
    masked: bool
    attention: Mapping[str, Any] | None
    seed: int

    @property
    def layers(self) -> dict[LinearSite, Layer]:
        """All layers by their site."""
        return {layer.site: layer for block in self.blocks.values() for layer in block.values()}

    def iter_blocks(self) -> Iterator[Block]:
        """Every block with what the float model computes in it; only one is held at a time."""
        depth = self.var.config.depth
        for index, data in enumerate(data_by_block(self.var, self.calibration, self.masked)):
            vars_own = isinstance(self.var, Var) and index < depth
            module = self.var.blocks[index] if vars_own else None
            assert module is None or isinstance(module, VarBlock)
            heads = generator_of(self.var).heads(index)
            yield Block(index, self.blocks[index], module, data, self.seed, heads=heads)


@dataclass
class RunningRange:
    """Asymmetric integers whose range is the moving average over the batches seen so far.

    Attributes:
        bits: of a code.
        parts: token ranges [first, end) that have a range each; None: one for all values.
        by_channel: a range for each channel of the (one) part.
        zero_points: "averaged", or "rounded" to a code.
        follows: whether further batches enter; False keeps the ranges as they are.
        batches: (scale, zero point) of each batch, [parts] or [channels] each.

    Tokens outside all parts pass through as they are.
    """

    bits: int
    parts: Parts | None = None
    by_channel: bool = False
    zero_points: ZeroPoints = "averaged"
    follows: bool = True
    batches: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    def __call__(self, x: Tensor) -> Tensor:
        """Look at [B, L, I] (without `parts` any shape), then fake-quantize it."""
        pieces = [x] if self.parts is None else [x[:, a:b] for a, b in self.parts]
        if self.follows:
            ranges = [
                percentile_range(
                    p.flatten(0, 1).mT.contiguous() if self.by_channel else p.reshape(1, -1),
                    self.bits,
                )
                for p in pieces
            ]
            self.batches.append((torch.cat([s for s, _ in ranges]),
                                 torch.cat([z for _, z in ranges])))  # fmt: skip
        fixed = self.range
        if self.parts is None:
            return fixed(x)
        x = x.clone()
        for index, (a, b) in enumerate(self.parts):
            pick = slice(None) if self.by_channel else index
            one = FixedRange(fixed.scale[pick], fixed.zero_point[pick], fixed.bits)
            x[:, a:b] = one(x[:, a:b])
        return x

    @property
    def range(self) -> FixedRange:
        """The range now."""
        return FixedRange(*average_range(self.batches, self.zero_points), float(self.bits))

    def static(self, integers: str, pair_of_scale: tuple[int, ...]) -> StaticQuantizer:
        """The range for generation, where tokens come scale step by scale step."""
        scale_S, zero_point_S = average_range(self.batches, self.zero_points)
        return StaticQuantizer.of(integers, scale_S, zero_point_S, pair_of_scale, self.zero_points)


def parts_of(pair_of_scale: tuple[int, ...], scales: Parts) -> Parts | None:
    """Token ranges of the pairs of a `StaticQuantizer`; None for a single pair."""
    if len(set(pair_of_scale)) == 1:
        return None
    pairs = [pair_of_scale[min(k, len(pair_of_scale) - 1)] for k in range(len(scales))]
    ranges = []
    for pair in dict.fromkeys(pairs):
        own = [bounds for bounds, other in zip(scales, pairs, strict=True) if other == pair]
        ranges.append((own[0][0], own[-1][1]))
    return tuple(ranges)


@torch.no_grad()
def run_network(
    var: Model,
    calibration: CalibrationSet,
    layers: Mapping[LinearSite, Layer],
    running: Mapping[LinearSite, RunningRange],
    attention: AttentionBackend | None,
    batch: int,
    masked: bool,
    quantized: bool = True,
) -> None:
    """Run all rows through the model in batches, so that running ranges see them.

    Args:
        var: the float model.
        calibration: the samples.
        layers: operations and weights; weights are rounded to nearest unless they are already.
        running: ranges of the inputs of these linears; other inputs stay as they are.
        attention: the products of attention, or None for those that are in place.
        batch: rows that run together.
        masked: whether tokens see coarser scales and their own alone.
        quantized: False shows the ranges the float model's inputs instead.
    """
    weights = {site: layer.current() for site, layer in layers.items()} if quantized else {}

    def linear(site: LinearSite, x_BLC: Tensor, weight_OI: Tensor, bias_O: Tensor | None) -> Tensor:
        layer = layers.get(site)
        if layer is None:
            return F.linear(x_BLC, weight_OI, bias_O)
        flat = x_BLC.dim() == 2  # AdaLN projections see one vector for each row
        x_BLI = layer.prepared(x_BLC.unsqueeze(1) if flat else x_BLC)
        seen_BLI = running[site](x_BLI) if site in running else x_BLI
        if quantized:
            x_BLI = seen_BLI
        y_BLO = F.linear(x_BLI, weights.get(site, layer.weight_OI), layer.bias_O)
        return y_BLO.squeeze(1) if flat else y_BLO

    labels_B, latent_BLZ = calibration.row_data(var.config.num_classes)
    with var.backends.replaced(linear, attention):
        for rows in row_order(len(labels_B), batch):
            var(labels_B[rows], latent_BLZ[rows], masked=masked)
