# SPDX-License-Identifier: Apache-2.0
"""From the absolute maximum of a block to its scale: the named rules.

A rule sees the absolute maxima of all blocks of one half of the format and returns a `Scaling`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from lutvar.contract.formats.catalog import E4M3
from lutvar.contract.formats.spec import NumberFormat
from lutvar.contract.formats.ties import TieRule
from lutvar.text import TextEnum

from .codec import codec
from .rounding import FLOAT_TYPES, power_of_two, round_float

#: Smallest normal FP16 value; a group below it counts as zero under rule `exact` (FP16 input).
ZERO_GROUP = 2.0**-14


class ScaleRule(TextEnum):
    """How the scale of a block follows from its absolute maximum (amax)."""

    EXACT = "exact"  #: amax itself; codes by exact comparison: the accelerator
    ABSMAX_FP32 = "absmax_fp32"  #: amax / largest value, rounded to float32
    ABSMAX_FP16 = "absmax_fp16"  #: the same, rounded to FP16
    ABSMAX_BF16 = "absmax_bf16"  #: the same, rounded to bfloat16
    FPQVAR = "fpqvar"  #: the same in the tensor's type, and x / scale rounded to it: FPQVAR
    POW2 = "pow2"  #: 2**(floor(log2 amax) - floor(log2 largest value)), saturating: OCP MX
    E4M3 = "e4m3"  #: amax / largest value in E4M3, times one float32 for the tensor: NVFP4


@dataclass(frozen=True)
class Scaling:
    """Scales of all blocks, for one half of a format.

    Attributes:
        stored: what the rule keeps for each block; 0 where the block (half) is a zero group.
        numerator: with `denominator`, the doubled grid position is
            `2 y = x * numerator / denominator`; a power of two, or twice a grid integer.
        denominator: float64, infinite for zero groups.
        unit: the scale (value of one grid step) is `stored * unit / divisor`.
        divisor: see `unit`; separate because 1/divisor need not be exact.
    """

    stored: Tensor
    numerator: float
    denominator: Tensor
    unit: float
    divisor: float = 1.0


ScaleFunction = Callable[[Tensor, NumberFormat, bool], Scaling]


@dataclass(frozen=True)
class ScaleMethod:
    """What a rule does.

    Attributes:
        compute: (absolute maxima in the tensor's type, format, negative half) -> Scaling.
        ties: tie rule that goes with it unless another is asked for.
        rounds_ratio: x / scale is rounded to the tensor's type before it is encoded, and the
            dequantized product is computed in that type.
    """

    compute: ScaleFunction
    ties: TieRule = TieRule.EVEN
    rounds_ratio: bool = False


def _round(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Round float64 once to a float type; a scale beyond its range is a ValueError."""
    to = FLOAT_TYPES[dtype]
    rounded = round_float(x, to)
    if rounded.numel() and float(rounded.max()) > to.largest:
        raise ValueError(
            f"a scale of {float(rounded.max()):g} does not fit {dtype} (largest {to.largest:g}); "
            "use rule absmax_fp32, or divide the tensor by a constant first"
        )
    return rounded.to(dtype)


def _exact(amax: Tensor, fmt: NumberFormat, negative: bool) -> Scaling:
    threshold = ZERO_GROUP if amax.dtype == torch.float16 else 0.0
    stored = torch.where(amax < threshold, torch.zeros_like(amax), amax)
    top = fmt.scale_top(negative)
    return Scaling(stored, 2.0 * top, _or_infinite(stored), 1.0, float(top))


def _absmax(dtype: torch.dtype | None, amax: Tensor, fmt: NumberFormat, negative: bool) -> Scaling:
    """`dtype` None is the tensor's own type."""
    largest = float(fmt.max_value(negative))
    # Quotients of short numbers: rounding to float64 first cannot move the second rounding
    # (53 bits are more than twice 24 plus 2).
    stored = _round(amax.double() / largest, dtype or amax.dtype)
    return _by_value(stored, stored.double(), fmt, negative)


def _pow2(amax: Tensor, fmt: NumberFormat, negative: bool) -> Scaling:
    largest = int(fmt.max_value(negative).numerator // fmt.max_value(negative).denominator)
    top_exponent = max(largest, 1).bit_length() - 1
    exponent = torch.frexp(amax.double()).exponent - 1 - top_exponent
    # E8M0 holds 2**-127..2**127 and no zero; a block of zeros takes the smallest.
    exponent = torch.where(amax == 0, -127, exponent).clamp(-127, 127)
    scale = power_of_two(exponent)
    return _by_value(scale.float(), scale, fmt, negative)


def _e4m3(amax: Tensor, fmt: NumberFormat, negative: bool) -> Scaling:
    largest = float(fmt.max_value(negative))
    tensor_amax = amax.max().double()
    tensor_scale = _round(tensor_amax / (float(E4M3.max_value()) * largest), torch.float32)
    ratio = _round(amax.double() / largest, torch.float32)
    if tensor_scale == 0:
        tensor_scale, ratio = torch.ones_like(tensor_scale), torch.zeros_like(ratio)
    encoder = codec(E4M3)
    stored = encoder.decode(encoder.encode(ratio / tensor_scale))
    product = stored.double() * tensor_scale.double()
    return _by_value(stored, product, fmt, negative, tensor_scale.item())


def _by_value(
    stored: Tensor, scale: Tensor, fmt: NumberFormat, negative: bool, tensor_scale: float = 1.0
) -> Scaling:
    """Scaling of a rule whose scale multiplies the format's values (not its grid integers)."""
    unit = fmt.half(negative).unit
    return Scaling(stored, float(2 / unit), _or_infinite(scale), float(unit) * tensor_scale)


def _or_infinite(scale: Tensor) -> Tensor:
    return torch.where(scale == 0, torch.inf, scale.double())


SCALE_RULES: dict[ScaleRule, ScaleMethod] = {
    ScaleRule.EXACT: ScaleMethod(_exact),
    ScaleRule.ABSMAX_FP32: ScaleMethod(partial(_absmax, torch.float32)),
    ScaleRule.ABSMAX_FP16: ScaleMethod(partial(_absmax, torch.float16)),
    ScaleRule.ABSMAX_BF16: ScaleMethod(partial(_absmax, torch.bfloat16)),
    ScaleRule.FPQVAR: ScaleMethod(partial(_absmax, None), ties=TieRule.UP, rounds_ratio=True),
    ScaleRule.POW2: ScaleMethod(_pow2),
    ScaleRule.E4M3: ScaleMethod(_e4m3),
}


def check_scale_rule(name: str) -> ScaleRule:
    """The rule of that name. Raises ValueError with the known ones otherwise."""
    try:
        return ScaleRule(name)
    except ValueError:
        raise ValueError(f"unknown scale rule {name!r}; known: {', '.join(ScaleRule)}") from None
