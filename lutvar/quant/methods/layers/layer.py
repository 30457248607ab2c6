# SPDX-License-Identifier: Apache-2.0
"""A linear layer on its way through a recipe, and a block of them with its calibration data.

A recipe is a list of steps. Each step changes `Layer` objects: it adds operations on the input
(with the matching change of the weight), chooses quantizers, or decides how the weight is rounded.
What the layer computes afterwards is always the same formula, `Layer.__call__`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from lutvar.quant.methods.quantizers.fake import FakeQuantizer, Scales
from lutvar.quant.var.blocks import Modulation, VarBlock
from lutvar.quant.var.sites import LinearSite, SiteName


class InputOperation(Protocol):
    """Something that happens to a layer's input before it is quantized."""

    def __call__(self, x: Tensor) -> Tensor:
        """[..., I] to [..., I]."""

    def describe(self) -> str:
        """Few words for reports: what it is and whether it costs anything at run time."""


class ActivationQuantizer(Protocol):
    """Fake quantization of a layer's input."""

    @property
    def bits(self) -> float:
        """Bits of a code."""

    def __call__(self, x: Tensor, scale_index: int) -> Tensor:
        """[..., l, I] to the same; `scale_index` is the scale step that the l tokens belong to."""


@dataclass
class Layer:
    """One linear: `y = Q_x(ops(x)) Q_w(W)^T + low rank + b`.

    Attributes:
        site: which linear.
        weight_OI: the weight in the basis after `operations`, float32, not quantized.
        bias_O: bias, or None.
        operations: what happens to the input, in order.
        activation: quantizer of the input, or None for float.
        weight: quantizer of the weight, or None for float.
        weight_scales: scales that a step chose for the weight; None for those of its extremes.
        rounded_OI: the weight as it is used; None until rounding was decided (`finish`).
        aim_OI: what the weight's terms shall come to together, where a step that rounded it knows
            better than `weight_OI`.
        second_OI: what a second set of codes stands for, which is added to `rounded_OI`; None for
            weights of one term, and until `finish`.
        second_scales: its scales, where the quantizer has known ones.
        low_rank: (down_RI, up_OR) of a branch that sees the input before it is quantized, or None.
        notes: remarks of steps for reports.
    """

    site: LinearSite
    weight_OI: Tensor
    bias_O: Tensor | None
    operations: list[InputOperation] = field(default_factory=list)
    activation: ActivationQuantizer | None = None
    weight: FakeQuantizer | None = None
    weight_scales: Scales | None = None
    rounded_OI: Tensor | None = None
    aim_OI: Tensor | None = None
    second_OI: Tensor | None = None
    second_scales: Scales | None = None
    low_rank: tuple[Tensor, Tensor] | None = None
    notes: list[str] = field(default_factory=list)

    def prepared(self, x: Tensor) -> Tensor:
        """The input after all operations, before it is quantized."""
        for operation in self.operations:
            x = operation(x)
        return x

    @property
    def terms(self) -> tuple[int, int]:
        """Codes whose sum a weight is, and an input: (weights, inputs), each 1 or 2."""
        weight = 1 if self.weight is None else self.weight.terms
        return weight, getattr(self.activation, "terms", 1)

    @property
    def used_OI(self) -> Tensor:
        """The weight of a finished layer, [O, I]: the sum of its terms."""
        assert self.rounded_OI is not None, f"{self.site}: finish() was not called"
        return self.rounded_OI if self.second_OI is None else self.rounded_OI + self.second_OI

    def finish(self) -> None:
        """Round the weight to nearest unless a step has rounded it."""
        self.rounded_OI = self.current().contiguous()
        if self.terms[0] == 2 and self.second_OI is None:
            self.add_second(self.weight_OI if self.aim_OI is None else self.aim_OI)

    def add_second(self, target_OI: Tensor) -> None:
        """Quantize what the first set leaves of a weight [O, I]: the second set of codes."""
        assert self.weight is not None and self.rounded_OI is not None
        left_OI = (target_OI.double() - self.rounded_OI.double()).float()
        if self.weight.spec.exact_rule is not None:
            self.second_OI = self.weight.one(left_OI).contiguous()
            return
        self.second_scales = self.weight.scales(left_OI)
        self.second_OI = self.weight.apply(left_OI, self.second_scales).contiguous()

    def current(self) -> Tensor:
        """The weight as the steps so far have rounded it, else rounded to nearest, [O, I]."""
        return self.nearest() if self.rounded_OI is None else self.rounded_OI

    def nearest(self) -> Tensor:
        """The weight rounded to nearest, in one code, with the scales chosen so far, [O, I]."""
        if self.weight is None:
            return self.weight_OI
        if self.weight_scales is None:
            return self.weight.one(self.weight_OI)
        return self.weight.apply(self.weight_OI, self.weight_scales)

    def grid(self) -> tuple[FakeQuantizer, Scales]:
        """Quantizer and scales of the weight, for steps that round it.

        Raises:
            ValueError: the recipe does not quantize this weight, or by an exact rule.
        """
        if self.weight is None:
            raise ValueError(f"{self.site}: the recipe gives its weight no format; name one")
        if self.weight.spec.exact_rule is not None:
            raise ValueError(f"{self.site}: weight.exact_rule rounds itself; leave it out")
        if self.weight_scales is None:
            self.weight_scales = self.weight.scales(self.weight_OI)
        return self.weight, self.weight_scales

    def need_unrounded(self, what: str) -> None:
        """Raise ValueError if scales, rounding or a low-rank branch rest on the present weight."""
        if self.rounded_OI is not None or self.weight_scales is not None or self.low_rank:
            raise ValueError(f"{self.site}: {what} must come before steps that round the weight")

    def __call__(self, x: Tensor, scale_index: int) -> Tensor:
        """Output [..., O] for input [..., l, I] of one scale step."""
        x = self.prepared(x)
        quantized = x if self.activation is None else self.activation(x, scale_index)
        y = F.linear(quantized, self.used_OI, self.bias_O)
        if self.low_rank is not None:
            down_RI, up_OR = self.low_rank
            y = y + F.linear(F.linear(x, down_RI), up_OR)
        return y


@dataclass(frozen=True)
class BlockData:
    """What the float model does in one block on the calibration samples. B rows, L tokens.

    Rows are (sample, half): conditional rows first, then the unconditional rows of the same
    samples. Tokens of all scales follow each other; `scales` gives the range of each.

    Attributes:
        x_BLC: residual stream at the block's entry; None outside the blocks.
        modulation: AdaLN vectors [B, 1, C]; None outside the blocks.
        mask_11LL: block-causal mask.
        inputs: name of a linear -> its input [B, L, I] (AdaLN linears: [B, 1, I]).
        scales: (first, last + 1) token of each scale.
        labels_B: class of each row, the null class for unconditional ones.
        regions: for each scale which static range its tokens share; empty: one for each scale.
        sink: the first scales, whose tokens have ranges of their own (the sink tokens).
        importance: name of a linear -> Fisher matrix [O, O] of its output (`importance`), for
            those that steps ask for.
    """

    x_BLC: Tensor | None
    modulation: Modulation | None
    mask_11LL: Tensor
    inputs: Mapping[SiteName, Tensor]
    scales: tuple[tuple[int, int], ...]
    labels_B: Tensor
    importance: Mapping[SiteName, Tensor] = field(default_factory=dict)
    regions: tuple[int, ...] = ()
    sink: int = 1

    @property
    def sink_tokens(self) -> int:
        """Tokens of the first `sink` scales; 0 where nothing follows them."""
        return self.scales[self.sink - 1][1] if len(self.scales) > self.sink else 0

    def by_scale(self, name: SiteName) -> list[Tensor]:
        """Inputs of a linear for each scale step, [B, l, I]."""
        return [self.inputs[name][:, a:b] for a, b in self.scales]


@dataclass
class Block:
    """The linears of a block (or those outside the blocks) and their data.

    Attributes:
        index: block, or the number of blocks for the linears outside.
        layers: name -> layer; only the linears that the recipe covers.
        module: the float block of a VAR model, else None; steps must not change it.
        data: calibration data, None when the recipe needs none.
        seed: for random choices of steps.
        heads: attention heads, None outside the blocks; by default those of `module`.
        following: steps of the recipe that come after the one at work.
    """

    index: int
    layers: dict[SiteName, Layer]
    module: VarBlock | None
    data: BlockData | None
    seed: int = 0
    following: tuple[Step, ...] = ()
    heads: int | None = None

    def __post_init__(self) -> None:
        if self.heads is None and self.module is not None:
            self.heads = self.module.attn.heads

    def generator(self, salt: int = 0) -> torch.Generator:
        """A random stream that depends on seed, block and salt alone."""
        return torch.Generator().manual_seed((self.seed * 1009 + self.index) * 1009 + salt)


class Step(Protocol):
    """One method, or one part of one. Made from the recipe's settings by `steps.make_step`."""

    @property
    def needs_data(self) -> bool:
        """Whether `apply` reads `Block.data`."""

    def apply(self, block: Block) -> None:
        """Change the layers of a block."""
