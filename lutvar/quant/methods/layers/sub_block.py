# SPDX-License-Identifier: Apache-2.0
"""Parts of a block that are reconstructed by themselves: attention, FFN, or one other linear.

Source: the released code of Shift-and-Sum (arXiv:2606.16131). A sub-block runs all scale steps one
after the other, attention with a cache that grows.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from lutvar.quant.var.blocks import KvCache, VarBlock
from lutvar.quant.var.sites import (
    AttentionBackend,
    FloatAttention,
    FloatLinear,
    LinearBackend,
    LinearSite,
    SiteName,
)

from .layer import Block, BlockData, Layer

#: Linears of the two halves of a block.
HALVES: dict[Literal["attn", "ffn"], tuple[SiteName, SiteName]] = {
    "attn": ("qkv", "proj"),
    "ffn": ("fc1", "fc2"),
}


@dataclass(frozen=True)
class SubBlock:
    """Linears whose outputs are compared together.

    Attributes:
        layers: the linears that are learned.
        inputs: the sub-block's input at each scale step, [rows, l, I].
        half: attention or FFN of `module`; None for one linear by itself.
        module: the float block, None outside.
    """

    layers: list[Layer]
    inputs: list[Tensor]
    half: Literal["attn", "ffn"] | None = None
    module: VarBlock | None = None

    def outputs(
        self,
        linear: LinearBackend,
        attention: AttentionBackend,
        rows: Tensor | None = None,
        begin_scale: Callable[[int], None] | None = None,
    ) -> list[Tensor]:
        """What comes out at each scale step, [rows, l, O], before any gate.

        Args:
            linear, attention: compute the products.
            rows: which rows run; None for all.
            begin_scale: called with the index before each scale step.
        """
        results, cache = [], KvCache()
        with self._computed(linear, attention):
            for scale, x_BlI in enumerate(self.inputs):
                x_BlI = x_BlI if rows is None else x_BlI[rows]
                if begin_scale is not None:
                    begin_scale(scale)
                if self.half is None or self.module is None:
                    layer = self.layers[0]
                    results.append(linear(layer.site, x_BlI, layer.weight_OI, layer.bias_O))
                elif self.half == "attn":
                    results.append(self.module.attn(x_BlI, None, cache))
                else:
                    results.append(self.module.ffn(x_BlI))
        return results

    @torch.no_grad()
    def float_outputs(self) -> list[Tensor]:
        """The same of the float model, for all rows."""
        if self.half is not None:
            return self.outputs(FloatLinear(), FloatAttention())
        layer = self.layers[0]

        def linear(
            site: LinearSite, x_BLC: Tensor, weight_OI: Tensor, bias_O: Tensor | None
        ) -> Tensor:
            return F.linear(layer.prepared(x_BLC), weight_OI, bias_O)

        return self.outputs(linear, FloatAttention())

    @contextmanager
    def _computed(self, linear: LinearBackend, attention: AttentionBackend) -> Iterator[None]:
        linears = None if self.module is None else self.module.linears
        with nullcontext() if linears is None else linears.replaced(linear, attention):
            yield


def sub_blocks(block: Block, names: Collection[SiteName]) -> Iterator[SubBlock]:
    """The sub-blocks of a block with a linear of these names: single ones, attention, FFN."""
    data = block.data
    assert data is not None
    halves = {name for pair in HALVES.values() for name in pair}
    for name, layer in block.layers.items():
        if name in names and name not in halves:
            yield SubBlock([layer], _by_scale(data, name))
    for half, pair in HALVES.items():
        layers = [block.layers[name] for name in pair if name in names and name in block.layers]
        if layers:
            yield SubBlock(layers, data.by_scale(pair[0]), half, block.module)


def _by_scale(data: BlockData, name: SiteName) -> list[Tensor]:
    """Inputs of a linear outside attention and FFN, at the scale steps where it has one."""
    x_BLI, tokens = data.inputs[name], data.scales[-1][1]
    if name in ("ada_lin", "head_ada", "shared_ada"):
        return [x_BLI]  # one vector for all scale steps
    first = tokens - x_BLI.shape[1]  # token embeddings begin with the second scale
    return [x_BLI[:, a - first : b - first] for a, b in data.scales if a >= first]
