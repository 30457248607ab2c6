# SPDX-License-Identifier: Apache-2.0
"""What RAR and PAR share: positions in passes, blocks with a cache, logits.

A sequence has positions 0, 1, ...; position p sees the positions of its own pass and of earlier
ones and predicts token `p - lead`. Both ways through the model are here: `pass_logits`, one pass
after the other with a cache, as generation goes, and `forward`, all positions at once behind a
mask.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from lutvar.quant.var.blocks import KvCache
from lutvar.quant.var.model import plain_cache
from lutvar.quant.var.sites import BackendHolder, LinearSite, SiteName

from .blocks import Block, BlockShape, LinearEntry, TokenInputs
from .config import ParConfig, RarConfig, Sampling


class TokenModel(nn.Module, ABC):
    """A class-conditional transformer over the tokens of an image.

    Attributes:
        family: "RAR" or "PAR".
        absent: linears of VAR that this family lacks -> why, for recipes that name them.
        lead: positions before the one that predicts token 0.
        config: the shape it was built with.
        head: the last linear, which gives the logits.
        passes: (first, last + 1) position of each pass.
        regions: for each pass the range of tokens it belongs to where ranges are static: tokens
            that see much the same values share one.
        sink_passes: the first passes, whose tokens have ranges of their own.
        cache_factory: makes the empty cache of a block, by index.
        step_hook: called with the pass's index at the start of every pass, or None.
        sampling: settings of the samples that calibration draws.
    """

    family: ClassVar[str]
    absent: ClassVar[Mapping[SiteName, str]]
    lead: ClassVar[int]
    config: RarConfig | ParConfig
    head: nn.Linear
    passes: tuple[tuple[int, int], ...]
    regions: tuple[int, ...]
    sink_passes: int

    def __init__(self, config: RarConfig | ParConfig, shape: BlockShape) -> None:
        super().__init__()
        self.step_hook: Callable[[int], None] | None = None
        self.sampling = Sampling()
        self.cache_factory: Callable[[int], KvCache] = plain_cache
        self._linears = BackendHolder()
        self.head_site = LinearSite(config.depth, "head")
        self.blocks = nn.ModuleList(Block(shape, i, self._linears) for i in range(config.depth))

    @property
    def backends(self) -> BackendHolder:
        """The backends of all matrix products."""
        return self._linears

    @property
    def positions(self) -> int:
        """Positions of a whole sequence."""
        return self.passes[-1][1]

    @abstractmethod
    def inputs(self, labels_B: Tensor, tokens_BT: Tensor, begin: int, end: int) -> TokenInputs:
        """What enters the blocks at positions `begin` to `end` - 1.

        Args:
            labels_B: class indices; num_classes is the null class.
            tokens_BT: the tokens so far, at least those that these positions hold.
            begin, end: the range.
        """

    @abstractmethod
    def classify(self, x_BlC: Tensor, inputs: TokenInputs) -> Tensor:
        """Logits [B, l, V] in float32 of what the blocks made."""

    @abstractmethod
    def outer_linears(self) -> Iterator[LinearEntry]:
        """(site, weight_OI, bias_O) of the linears outside the blocks."""

    def iter_blocks(self) -> Iterator[Block]:
        """The blocks in order."""
        for block in self.blocks:
            assert isinstance(block, Block)
            yield block

    def iter_linears(self, index: int) -> Iterator[LinearEntry]:
        """The linears of a block, AdaLN first, or those outside the blocks (`depth`)."""
        if index == self.config.depth:
            yield from self.outer_linears()
        else:
            block = self.blocks[index]
            assert isinstance(block, Block)
            yield from block.iter_linears()

    def new_cache(self) -> list[KvCache]:
        """An empty key/value cache for each block."""
        return [self.cache_factory(i) for i in range(self.config.depth)]

    def pass_logits(
        self, index: int, labels_B: Tensor, tokens_BT: Tensor, cache: Sequence[KvCache]
    ) -> Tensor:
        """Logits [B, l, V] of one pass; appends its keys and values to the cache."""
        if self.step_hook is not None:
            self.step_hook(index)
        inputs = self.inputs(labels_B, tokens_BT, *self.passes[index])
        x_BlC = inputs.x_BlC
        for block, block_cache in zip(self.iter_blocks(), cache, strict=True):
            x_BlC = block(x_BlC, inputs, None, block_cache)
        return self.classify(x_BlC, inputs)

    def mask(self) -> Tensor:
        """[1, 1, L, L] for all positions: 0 where a position may look, -inf elsewhere."""
        ends = [end for begin, end in self.passes for _ in range(begin, end)]
        visible_LL = torch.arange(self.positions) < torch.tensor(ends).unsqueeze(1)
        return torch.where(visible_LL, 0.0, -torch.inf)[None, None]

    def forward(self, labels_B: Tensor, tokens_BT: Tensor, masked: bool = True) -> Tensor:
        """Logits [B, T, V] in float32 of all tokens when those before each are given.

        `masked`: False lets every position see every other, as PTQ4ARVG calibrates VAR.
        """
        inputs = self.inputs(labels_B, tokens_BT, 0, self.positions)
        return self.run(inputs, masked)[:, self.lead :]

    def run(self, inputs: TokenInputs, masked: bool = True) -> Tensor:
        """Logits [B, L, V] of all positions."""
        x_BLC = inputs.x_BlC
        mask_11LL = self.mask().to(x_BLC.device) if masked else None
        for block in self.iter_blocks():
            x_BLC = block(x_BLC, inputs, mask_11LL)
        return self.classify(x_BLC, inputs)


def one_by_one(positions: int) -> tuple[tuple[int, int], ...]:
    """A pass for each position."""
    return tuple(itertools.pairwise(range(positions + 1)))
