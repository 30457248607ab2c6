# SPDX-License-Identifier: Apache-2.0
"""Rounding float64 once to a shorter float, exactly and on any device.

torch converts float64 to the 16-bit types through float32 and can so round twice; numpy rounds
correctly but slowly.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

_EXPONENT_BITS = 0x7FF0_0000_0000_0000


class FloatType(NamedTuple):
    """Significant bits, exponent of the smallest normal value, largest finite value."""

    precision: int
    lowest: int
    largest: float


FP16 = FloatType(11, -14, 65504.0)
BF16 = FloatType(8, -126, float(torch.finfo(torch.bfloat16).max))
FP32 = FloatType(24, -126, float(torch.finfo(torch.float32).max))
FLOAT_TYPES = {torch.float16: FP16, torch.bfloat16: BF16, torch.float32: FP32}


def power_of_two(exponent: Tensor) -> Tensor:
    """Exact `2.0**exponent` (float64) for integers -1022..1023, from the bit pattern."""
    return (exponent.to(torch.int64) + 1023).bitwise_left_shift(52).view(torch.float64)


def round_float(x: Tensor, to: FloatType) -> Tensor:
    """Round finite float64 to nearest even with gradual underflow; the result is float64.

    The range is not limited upward. Adding 1.5 times the power of two whose last float64 bit is
    the last bit of the result makes the addition round; subtracting it again is exact.

    Args:
        x: float64, any shape, magnitudes below 2**900.
        to: precision and smallest normal exponent of the result.
    """
    magic = (x.view(torch.int64) & _EXPONENT_BITS).view(torch.float64)
    magic = magic.clamp_min_(2.0**to.lowest).mul_(1.5 * 2.0 ** (53 - to.precision))
    return (x + magic).sub_(magic)
