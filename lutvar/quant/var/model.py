# SPDX-License-Identifier: Apache-2.0
"""The VAR transformer: from class labels and coarser token maps to logits of the next map.

Two ways through it. `forward` sees all scales at once behind a block-causal mask
(training, teacher forcing). `condition`, `first_input`, `next_input` and
`scale_logits` are the steps of generation, one scale at a time with a cache; the
loop over them is in `generate`.

Source: VAR (arXiv:2404.02905), section 3.2; layout of the parameters from the released
checkpoints.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn

from .blocks import HeadNorm, KvCache, Modulation, VarBlock
from .config import VarConfig
from .sites import BackendHolder, LinearBackend, LinearSite, SiteName


class Conditioning(NamedTuple):
    """Everything that depends on the class labels alone; computed once per image."""

    cond_BD: Tensor
    blocks: list[Modulation]
    head_scale_B1C: Tensor
    head_shift_B1C: Tensor


class Var(nn.Module):
    """Next-scale transformer.

    Attributes:
        config: the shape it was built with.
        linear_backend: computes the block linears of all blocks; assign to replace it.
        backends: the same and those of the other products.
        cache_factory: makes the empty cache of a block, by index.
        step_hook: called with the scale index at the start of every generation step, or None.
    """

    lvl_1L: Tensor
    attn_bias_for_masking: Tensor

    def __init__(self, config: VarConfig) -> None:
        super().__init__()
        self.config = config
        self.step_hook: Callable[[int], None] | None = None
        self.cache_factory: Callable[[int], KvCache] = plain_cache
        self._linears = BackendHolder()
        width, first = config.width, config.patch_nums[0] ** 2
        self.word_embed = nn.Linear(config.z_channels, width)
        self.class_emb = nn.Embedding(config.num_classes + 1, width)
        self.pos_start = nn.Parameter(torch.zeros(1, first, width))
        self.pos_1LC = nn.Parameter(torch.zeros(1, config.tokens, width))
        self.lvl_embed = nn.Embedding(len(config.patch_nums), width)
        if config.shared_adaln:
            self.shared_ada_lin: nn.Module = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))
        last = max(config.depth - 1, 1)
        self.blocks = nn.ModuleList(
            VarBlock(config, i, config.drop_path_rate * i / last, self._linears)
            for i in range(config.depth)
        )
        for name, value in derived_buffers(config).items():
            if "." not in name:
                self.register_buffer(name, value)
        self.head_nm = HeadNorm(config, self._linears)
        self.head = nn.Linear(width, config.vocab)
        self._initialize()

    @property
    def linear_backend(self) -> LinearBackend:
        """The backend of the four block linears, shared by all blocks."""
        return self._linears.backend

    @linear_backend.setter
    def linear_backend(self, backend: LinearBackend) -> None:
        self._linears.backend = backend

    @property
    def backends(self) -> BackendHolder:
        """The backends of all matrix products."""
        return self._linears

    def _linear(self, name: SiteName, x: Tensor, module: nn.Module) -> Tensor:
        return self._linears.linear(LinearSite(self.config.depth, name), x, module)

    def iter_sites(self) -> Iterator[tuple[LinearSite, Tensor, Tensor]]:
        """(site, weight_OI, bias_O) of every block linear, in the order they run."""
        for block in self._blocks():
            yield from block.iter_linears()

    def _blocks(self) -> Iterator[VarBlock]:
        for block in self.blocks:
            assert isinstance(block, VarBlock)
            yield block

    def condition(self, labels_B: Tensor) -> Conditioning:
        """Class embeddings and all AdaLN vectors for labels_B (num_classes is the null class)."""
        cond_BD = self.class_emb(labels_B)
        shared_B16C = None
        if self.config.shared_adaln:
            activation, linear = cast(nn.Sequential, self.shared_ada_lin)
            shared_BO = self._linear("shared_ada", activation(cond_BD), linear)
            shared_B16C = shared_BO.view(-1, 1, 6, self.config.width)
        mods = [block.modulation(cond_BD, shared_B16C) for block in self._blocks()]
        return Conditioning(cond_BD, mods, *self.head_nm.modulation(cond_BD))

    def position_table(self) -> Tensor:
        """Level plus absolute position embedding of every token, [1, L, C]."""
        return self.lvl_embed(self.lvl_1L) + self.pos_1LC

    def new_cache(self) -> list[KvCache]:
        """An empty key/value cache per block."""
        return [self.cache_factory(i) for i in range(self.config.depth)]

    def first_input(self, cond: Conditioning) -> Tensor:
        """Input of scale 0, [B, p0*p0, C]: class embedding, start position, position table."""
        first = self.pos_start.shape[1]
        start_BlC = cond.cond_BD.unsqueeze(1) + self.pos_start
        return start_BlC + self.position_table()[:, :first]

    def next_input(
        self, scale_index: int, map_BCpp: Tensor, positions_1LC: Tensor | None = None
    ) -> Tensor:
        """Input of scale `scale_index` > 0, [B, p*p, C], from the latent map at that size.

        `positions_1LC`: the position table, for callers that have it.
        """
        sides = self.config.patch_nums
        begin = sum(p * p for p in sides[:scale_index])
        end = begin + sides[scale_index] ** 2
        x_BlZ = map_BCpp.flatten(2).transpose(1, 2)
        x_BlC = self._linear("word_embed", x_BlZ, self.word_embed)
        positions_1LC = self.position_table() if positions_1LC is None else positions_1LC
        return x_BlC + positions_1LC[:, begin:end]

    def scale_logits(self, x_BlC: Tensor, cond: Conditioning, cache: list[KvCache]) -> Tensor:
        """Logits [B, l, V] (float32) of one scale; appends its keys and values to the cache."""
        for block, mod, block_cache in zip(self._blocks(), cond.blocks, cache, strict=True):
            x_BlC = block(x_BlC, mod, cache=block_cache)
        return self._classify(x_BlC, cond)

    def forward(self, labels_B: Tensor, x_BLZ: Tensor, masked: bool = True) -> Tensor:
        """Logits of all scales under teacher forcing.

        In training mode a label becomes the null class with probability
        `cond_drop_rate`, drawn from torch's global generator.

        Args:
            labels_B: class indices, [B]; num_classes is the null class.
            x_BLZ: latent inputs of scales 1.., [B, L - p0*p0, z_channels], as
                `MultiScaleQuantizer.teacher_inputs` makes them; those of the finest scales may be
                left out.
            masked: False lets every token see every other; what PTQ4ARVG calibrates on.

        Returns:
            [B, L, V] in float32; L is shorter when scales were left out.
        """
        if self.training and self.config.cond_drop_rate > 0:
            drop_B = torch.rand(labels_B.shape[0], device=labels_B.device, dtype=torch.float32)
            null = torch.full_like(labels_B, self.config.num_classes)
            labels_B = torch.where(drop_B < self.config.cond_drop_rate, null, labels_B)
        cond = self.condition(labels_B)
        start_BlC = cond.cond_BD.unsqueeze(1) + self.pos_start
        words_BlC = self._linear("word_embed", x_BLZ, self.word_embed)
        x_BLC = torch.cat((start_BlC, words_BlC), dim=1)
        length = x_BLC.shape[1]
        x_BLC = x_BLC + self.position_table()[:, :length]
        mask_11LL = self.attn_bias_for_masking[..., :length, :length] if masked else None
        for block, mod in zip(self._blocks(), cond.blocks, strict=True):
            x_BLC = block(x_BLC, mod, mask_11LL=mask_11LL)
        return self._classify(x_BLC, cond)

    def _classify(self, x_BLC: Tensor, cond: Conditioning) -> Tensor:
        wide = torch.promote_types(x_BLC.dtype, torch.float32)
        h = self.head_nm(x_BLC.to(wide), cond.head_scale_B1C, cond.head_shift_B1C)
        return self._linear("head", h.to(wide), self.head).to(wide)

    @torch.no_grad()
    def _initialize(self) -> None:
        """Starting weights of the released training recipe: near-identity blocks, small head."""
        std = math.sqrt(1 / self.config.width / 3)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.trunc_normal_(module.weight, std=std)
            if isinstance(module, nn.Linear) and module.bias is not None:
                module.bias.zero_()
        nn.init.trunc_normal_(self.pos_start, std=std)
        nn.init.trunc_normal_(self.pos_1LC, std=std)
        self.head.weight.mul_(0.02)
        head_ada = self.head_nm.ada_lin[-1].weight
        assert isinstance(head_ada, Tensor)
        head_ada.mul_(0.5)
        shrink = 1 / math.sqrt(2 * self.config.depth)
        gates = 2 * self.config.width
        for block in self._blocks():
            block.attn.proj.weight.mul_(shrink)
            block.ffn.fc2.weight.mul_(shrink)
            if self.config.shared_adaln:
                block.ada_gss[:, :, :2].mul_(1e-5)
                block.ada_gss[:, :, 2:].mul_(0.5)
            else:
                weight = block.ada_lin[-1].weight
                assert isinstance(weight, Tensor)
                weight[:gates].mul_(1e-5)
                weight[gates:].mul_(0.5)


def plain_cache(block: int) -> KvCache:
    """The reference cache: keys and values as they are."""
    return KvCache()


def derived_buffers(config: VarConfig) -> dict[str, Tensor]:
    """The state_dict entries that follow from the configuration: name -> value.

    `lvl_1L` [1, L] is the scale of every token, `attn_bias_for_masking` [1, 1, L, L] is 0 where
    a query may look (its own scale and coarser ones) and -inf elsewhere, and every block's
    `zero_k_bias` is zero.
    """
    sides = config.patch_nums
    level_L = np.repeat(np.arange(len(sides)), [p * p for p in sides])
    bias_LL = np.where(level_L[:, None] >= level_L, np.float32(0), np.float32(-np.inf))
    buffers = {
        "lvl_1L": torch.tensor(level_L[None]),
        "attn_bias_for_masking": torch.tensor(bias_LL[None, None]),
    }
    for i in range(config.depth):
        buffers[f"blocks.{i}.attn.zero_k_bias"] = torch.zeros(config.width, dtype=torch.float32)
    return buffers
