# SPDX-License-Identifier: Apache-2.0
"""Quantize a tensor to codes and scales, and back: any format, granularity, scale and tie rule."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lutvar.contract.formats.spec import NumberFormat
from lutvar.contract.formats.ties import TieRule, check_ties

from .codec import codec, doubled_position
from .grouping import Granularity, group
from .rounding import FLOAT_TYPES, round_float
from .scales import SCALE_RULES, ScaleRule, Scaling, check_scale_rule

_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Quantized:
    """A quantized tensor.

    Attributes:
        codes: uint8, shape of the input.
        scaling: scales of the positive half, or of both halves in a single-scale format.
        scaling_neg: scales of the negative half of a dual format, else None.
        format, granularity, rule: as given to `quantize`.
        dtype: type of the input tensor.
    """

    codes: Tensor
    scaling: Scaling
    scaling_neg: Scaling | None
    format: NumberFormat
    granularity: Granularity
    rule: ScaleRule
    dtype: torch.dtype

    @property
    def scales(self) -> Tensor:
        """Scales as the rule stores them, [*scale shape] (see `Granularity.split`)."""
        return self.scaling.stored

    @property
    def scales_neg(self) -> Tensor | None:
        """The same for the negative half of a dual format."""
        return self.scaling_neg.stored if self.scaling_neg else None

    def dequantize(self, dtype: torch.dtype | None = None) -> Tensor:
        """Values in `dtype` (default: the input's), shape of the input.

        Computed in float64 and rounded once; rule `fpqvar` multiplies value and scale in the
        input's type, as that system does. A scale that was rounded up can take the end of the grid
        past the type's largest value; the result is then that value and not infinite.
        """
        dtype = dtype or self.dtype
        blocks = self.granularity.split(self.codes)
        negative = blocks.bitwise_and(self.format.sign_bit) != 0
        pos, neg, decoder = self.scaling, self.scaling_neg, codec(self.format)
        if SCALE_RULES[self.rule].rounds_ratio:
            values = decoder.decode(blocks, self.dtype)
            values = values * _select(negative, pos.stored, neg.stored if neg else None)
            # The product overflows in the input's type; any other type is reached from there.
            values = _within(values, self.dtype)
            values = values if dtype == self.dtype else values.double()
        else:
            scales = (s.stored.double() * s.unit if s else None for s in (pos, neg))
            values = decoder.grid(blocks, torch.float64) * _select(negative, *scales)
            if neg is not None and neg.divisor != pos.divisor:
                values = torch.where(negative, values / neg.divisor, values / pos.divisor)
            else:
                values = values / pos.divisor
            values = round_float(values, FLOAT_TYPES[dtype])
        return self.granularity.join(_within(values, dtype).to(dtype), self.codes)


def quantize(
    x: Tensor,
    fmt: NumberFormat,
    granularity: Granularity | None = None,
    scale_rule: ScaleRule | str = ScaleRule.EXACT,
    ties: TieRule | None = None,
) -> Quantized:
    """Quantize a tensor; the scales come from its own absolute maxima.

    A block (in a dual format, a half of a block) whose scale is zero gets code 0 throughout.

    Args:
        x: float32, float16 or bfloat16, any shape.
        fmt: target format.
        granularity: which values share a scale; default groups of 128 along the last axis.
        scale_rule: a `ScaleRule`, or its name.
        ties: tie rule; default the one that belongs to the scale rule.

    Raises:
        ValueError: type or shape that does not fit, or a value that is not finite.
    """
    rule = check_scale_rule(scale_rule)
    method = SCALE_RULES[rule]
    ties = method.ties if ties is None else check_ties(ties)
    granularity = group() if granularity is None else granularity
    if x.dtype not in _DTYPES:
        raise ValueError(
            f"tensor of {x.dtype}: exact decisions need at most 24 significant bits; "
            "convert to float32, float16 or bfloat16 first"
        )
    blocks = granularity.split(x)
    check_finite(x)
    if fmt.dual:
        negative = blocks < 0
        pos = method.compute(blocks.amax(-1).clamp_min(0), fmt, False)
        neg = method.compute((-blocks.amin(-1)).clamp_min(0), fmt, True)
        numerator: Tensor | float = torch.where(negative, neg.numerator, pos.numerator).double()
        stored = _select(negative, pos.stored, neg.stored)
        denominator = _select(negative, pos.denominator, neg.denominator)
    else:
        pos, neg = method.compute(blocks.abs().amax(-1), fmt, False), None
        numerator = pos.numerator
        stored, denominator = pos.stored.unsqueeze(-1), pos.denominator.unsqueeze(-1)
    if method.rounds_ratio:
        ratio = (blocks / stored).masked_fill(stored == 0, 0.0)
        position = ratio.double() * numerator
    else:
        position = doubled_position(blocks.double(), numerator, denominator)
    codes = granularity.join(codec(fmt, ties).encode_doubled(position), x)
    return Quantized(codes, pos, neg, fmt, granularity, rule, x.dtype)


def check_finite(x: Tensor) -> None:
    """Raise ValueError naming the first infinity or NaN of a tensor and its index."""
    # NaN and infinity both show in the extremes, without a temporary as large as x.
    if x.numel() and not bool(torch.isfinite(torch.stack(torch.aminmax(x))).all()):
        index = tuple(int(i) for i in (~torch.isfinite(x)).nonzero()[0])
        raise ValueError(
            f"value {x[index].item()} at index {index} is not finite; "
            "quantization needs finite values (clip them, or find where they arise)"
        )


def _within(values: Tensor, dtype: torch.dtype) -> Tensor:
    """Values clamped to the range of a type."""
    largest = FLOAT_TYPES[dtype].largest
    return values.clamp(-largest, largest)


def _select(negative: Tensor, pos: Tensor | None, neg: Tensor | None) -> Tensor:
    """Numbers of blocks, broadcast to values: `neg` where `negative`, if there is such a half."""
    assert pos is not None
    if neg is None:
        return pos.unsqueeze(-1)
    return torch.where(negative, neg.unsqueeze(-1), pos.unsqueeze(-1))
