# SPDX-License-Identifier: Apache-2.0
"""What recipes see of a generator: one protocol, which VAR, RAR and PAR fulfil.

A recipe needs the linears by the role they play, the order in which tokens come, a run of the
float model block by block, and one pass by pass with a cache. `generator_of` gives that for a
model; nothing else in `methods` asks what kind of model it has, except what works on VAR alone and
says so (`VAR_ONLY`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lutvar.quant.generators import TokenModel
from lutvar.quant.var import Var
from lutvar.quant.var.blocks import Modulation, VarBlock
from lutvar.quant.var.sites import SINGLE_SITES, LinearSite, SiteName

from .errors import RecipeError

Model = Var | TokenModel
LinearEntry = tuple[LinearSite, Tensor, Tensor | None]
Scales = tuple[tuple[int, int], ...]

_BLOCKS = "trains through VAR's block with its AdaLN vectors"
#: What only VAR can have: part of a recipe -> why.
VAR_ONLY: dict[str, str] = {
    "mixed": "budget and sensitivity count VAR's linears and scales",
    "tune": "the student runs VAR scale by scale",
    "calibration.resample": "tokens move by VAR's scales",
    "attention.share_halves": "halves are told apart by VAR's class embedding",
    "attention.kind shift-and-sum": "tokens are grouped by VAR's scales",
    "step brecq": _BLOCKS,
    "step omniquant": _BLOCKS,
    "step ias": _BLOCKS,
    "step reconstruct": _BLOCKS,
    "step key-rotation": "queries and keys of RAR and PAR meet more than their lengths",
}


class Stage(NamedTuple):
    """A block, or what is outside the blocks, that has just run on rows of calibration samples.

    Attributes:
        x_BLC: residual stream at the block's entry; None outside.
        modulation: AdaLN vectors, where they are the same for all tokens, else None.
        mask_11LL: which tokens saw each other.
        inputs: inputs of linears that did not run with the others of this stage.
    """

    x_BLC: Tensor | None
    modulation: Modulation | None
    mask_11LL: Tensor
    inputs: Mapping[SiteName, Tensor]


class Generator(Protocol):
    """A model as recipes see it. Rows are samples of one half of guidance each.

    Attributes:
        family: "VAR", "RAR" or "PAR".
        absent: linears that this model lacks -> why.
        scales: token range of each step in which tokens come: VAR's scales, a pass of the others.
        regions: for each step, which static range its tokens share.
        sink: the first steps, whose tokens have ranges of their own.
        null_input: what the AdaLN linears see for the null class, where that tells a row's half.
    """

    family: str
    absent: Mapping[SiteName, str]
    scales: Scales
    regions: tuple[int, ...]
    sink: int
    null_input: Tensor | None

    def linears(self, index: int) -> Iterator[LinearEntry]:
        """All linears of a block, AdaLN first, or those outside the blocks."""

    def heads(self, index: int) -> int | None:
        """Attention heads of a block; None outside the blocks."""

    def walk(self, labels_B: Tensor, inputs: Tensor, masked: bool) -> Iterator[Stage]:
        """Run all tokens of some rows block by block; each stage comes when it has run.

        Args:
            labels_B: classes; num_classes is the null class.
            inputs: what `CalibrationSet.row_data` gives.
            masked: False lets every token see every other.
        """

    def replay(self, labels_B: Tensor, inputs: Tensor) -> list[Tensor]:
        """Logits [B, l, V] of each step with a cache, as generation goes."""

    def last_output(self, labels_B: Tensor, inputs: Tensor, masked: bool) -> Tensor:
        """The last block's output [B, L, C]."""


def generator_of(model: Model) -> Generator:
    """The protocol for a model."""
    return VarGenerator(model) if isinstance(model, Var) else TokenGenerator(model)


def var_only(model: Model, part: str) -> None:
    """Raise RecipeError if part of a recipe needs VAR and the model is another."""
    if part in VAR_ONLY and not isinstance(model, Var):
        raise RecipeError(f"{part}: not for a {model.family} model: {VAR_ONLY[part]}")


@dataclass
class VarGenerator:
    """VAR: steps are scales, and each has a static range of its own."""

    model: Var

    def __post_init__(self) -> None:
        config = self.model.config
        self.family = "VAR"
        self.scales: Scales = config.scale_ranges
        self.regions, self.sink = tuple(range(len(self.scales))), 1
        self.absent: Mapping[SiteName, str] = {
            "shared_ada": "this model has AdaLN of each block; name ada_lin"
        }
        if config.shared_adaln:
            self.absent = {"ada_lin": "this model has a shared AdaLN; name shared_ada"}
        null_D = self.model.class_emb.weight[config.num_classes].detach()
        self.null_input: Tensor | None = F.silu(null_D)

    def linears(self, index: int) -> Iterator[LinearEntry]:
        """See `Generator.linears`."""
        var = self.model
        if index < var.config.depth:
            block = var.blocks[index]
            assert isinstance(block, VarBlock)
            if not block.shared:
                linear = block.ada_lin[1]
                assert isinstance(linear, nn.Linear)
                yield block.site_ada, linear.weight, linear.bias
            yield from block.iter_linears()
            return
        modules = {"head": var.head, "head_ada": var.head_nm.ada_lin[1],
                   "word_embed": var.word_embed}  # fmt: skip
        if var.config.shared_adaln:
            modules["shared_ada"] = var.shared_ada_lin[1]  # type: ignore[index]
        for name in SINGLE_SITES:
            if name in modules:
                module = modules[name]
                assert isinstance(module, nn.Linear)
                yield LinearSite(index, name), module.weight, module.bias

    def heads(self, index: int) -> int | None:
        """See `Generator.heads`."""
        return self.model.config.heads if index < self.model.config.depth else None

    def walk(self, labels_B: Tensor, inputs: Tensor, masked: bool) -> Iterator[Stage]:
        """See `Generator.walk`."""
        var = self.model
        mask_11LL = var.attn_bias_for_masking
        mask_11LL = mask_11LL if masked else torch.zeros_like(mask_11LL)
        cond = var.condition(labels_B)
        start_BlC = cond.cond_BD.unsqueeze(1) + var.pos_start
        word_site = LinearSite(var.config.depth, "word_embed")
        words_BLC = var.backends.linear(word_site, inputs, var.word_embed)
        silu_B1C = F.silu(cond.cond_BD).unsqueeze(1)
        x_BLC = torch.cat((start_BlC, words_BLC), 1) + var.position_table()
        for block, modulation in zip(var.blocks, cond.blocks, strict=True):
            y_BLC = block(x_BLC, modulation, mask_11LL=mask_11LL)
            yield Stage(x_BLC, modulation, mask_11LL, {"ada_lin": silu_B1C})
            x_BLC = y_BLC
        h_BLC = var.head_nm(x_BLC, cond.head_scale_B1C, cond.head_shift_B1C)
        outside: dict[SiteName, Tensor] = {
            "word_embed": inputs, "head": h_BLC, "head_ada": silu_B1C, "shared_ada": silu_B1C,
        }  # fmt: skip
        yield Stage(None, None, mask_11LL, outside)

    def replay(self, labels_B: Tensor, inputs: Tensor) -> list[Tensor]:
        """See `Generator.replay`."""
        var, sides = self.model, self.model.config.patch_nums
        maps_BlZ = inputs.split([p * p for p in sides[1:]], 1)
        cond, cache, logits = var.condition(labels_B), var.new_cache(), []
        for index, side in enumerate(sides):
            if var.step_hook is not None:
                var.step_hook(index)
            if index == 0:
                x_BlC = var.first_input(cond)
            else:
                map_BZpp = maps_BlZ[index - 1].transpose(1, 2).unflatten(2, (side, side))
                x_BlC = var.next_input(index, map_BZpp)
            logits.append(var.scale_logits(x_BlC, cond, cache))
        return logits

    def last_output(self, labels_B: Tensor, inputs: Tensor, masked: bool) -> Tensor:
        """See `Generator.last_output`."""
        var = self.model
        cond = var.condition(labels_B)
        start_BlC = cond.cond_BD.unsqueeze(1) + var.pos_start
        x_BLC = torch.cat((start_BlC, var.word_embed(inputs)), 1) + var.position_table()
        mask = var.attn_bias_for_masking if masked else None
        for block, modulation in zip(var.blocks, cond.blocks, strict=True):
            x_BLC = block(x_BLC, modulation, mask_11LL=mask)
        return x_BLC


@dataclass
class TokenGenerator:
    """RAR and PAR: steps are passes; calibration inputs are the tokens themselves."""

    model: TokenModel

    def __post_init__(self) -> None:
        model = self.model
        self.family, self.absent = model.family, model.absent
        self.scales, self.regions, self.sink = model.passes, model.regions, model.sink_passes
        self.null_input: Tensor | None = None

    def linears(self, index: int) -> Iterator[LinearEntry]:
        """See `Generator.linears`."""
        yield from self.model.iter_linears(index)

    def heads(self, index: int) -> int | None:
        """See `Generator.heads`."""
        return self.model.config.heads if index < self.model.config.depth else None

    def walk(self, labels_B: Tensor, inputs: Tensor, masked: bool) -> Iterator[Stage]:
        """See `Generator.walk`."""
        model = self.model
        entering = model.inputs(labels_B, inputs, 0, model.positions)
        mask_11LL, x_BLC = model.mask(), entering.x_BlC
        mask_11LL = mask_11LL if masked else torch.zeros_like(mask_11LL)
        for block in model.iter_blocks():
            y_BLC = block(x_BLC, entering, mask_11LL)
            yield Stage(x_BLC, None, mask_11LL, {})
            x_BLC = y_BLC
        model.classify(x_BLC, entering)
        yield Stage(None, None, mask_11LL, {})

    def replay(self, labels_B: Tensor, inputs: Tensor) -> list[Tensor]:
        """See `Generator.replay`."""
        cache = self.model.new_cache()
        return [
            self.model.pass_logits(index, labels_B, inputs, cache)
            for index in range(len(self.model.passes))
        ]

    def last_output(self, labels_B: Tensor, inputs: Tensor, masked: bool) -> Tensor:
        """See `Generator.last_output`."""
        model = self.model
        entering = model.inputs(labels_B, inputs, 0, model.positions)
        x_BLC, mask = entering.x_BlC, model.mask() if masked else None
        for block in model.iter_blocks():
            x_BLC = block(x_BLC, entering, mask)
        return x_BLC
