# SPDX-License-Identifier: Apache-2.0
"""FP16 patterns as the device reads them: float32 to patterns, and extended values both ways.

On the device exponent field 31 is an ordinary exponent (contract, section 1), so a pattern from
0x7C00 on is worth `(1024 + f) * 2**6` and not infinity or NaN.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lutvar.quant.formats.quantize import check_finite

Patterns = NDArray[np.uint16]

_LARGEST = 65504.0
_EXTENDED = 0x7C00  #: first pattern with exponent field 31
_EXTENDED_UNIT = 64.0
_EXTENDED_LARGEST = 2047 * _EXTENDED_UNIT


def to_fp16(x: Tensor | NDArray[np.float32]) -> Patterns:
    """Patterns of float32 values: round to nearest even, saturate at 65504.

    Raises:
        ValueError: a value is infinite or NaN.
        TypeError: not float32.
    """
    values = torch.as_tensor(x).detach()
    if values.dtype != torch.float32:
        raise TypeError(f"activations are {values.dtype}; the host rounds float32 to FP16")
    check_finite(values)
    return values.cpu().clamp(-_LARGEST, _LARGEST).half().numpy().view(np.uint16)


def values_of(patterns: Patterns) -> Tensor:
    """Float32 values of patterns, extended range included; exact."""
    values = torch.from_numpy(patterns.view(np.float16)).float()
    magnitudes = patterns & 0x7FFF
    if magnitudes.size and int(magnitudes.max()) >= _EXTENDED:
        extended = torch.from_numpy(
            (magnitudes.astype(np.int32) - _EXTENDED + 1024) * _EXTENDED_UNIT
        )
        extended = torch.where(torch.from_numpy(patterns >= 0x8000), -extended, extended)
        values = torch.where(torch.from_numpy(magnitudes >= _EXTENDED), extended.float(), values)
    return values


def patterns_of(values: Tensor) -> Patterns:
    """Patterns of values that are FP16 numbers already (see `rounding.round_float`).

    Args:
        values: floating point, any shape; multiples of the FP16 step, extended range included.

    Raises:
        ValueError: a value is beyond 131008, the largest extended number.
    """
    largest = float(torch.stack(torch.aminmax(values)).abs().max()) if values.numel() else 0.0
    if largest > _EXTENDED_LARGEST:
        raise ValueError(
            f"magnitude {largest} is beyond {_EXTENDED_LARGEST}, the largest FP16 scale"
        )
    if largest <= _LARGEST:
        return values.half().numpy().view(np.uint16)
    large = values.abs() >= 65536.0
    patterns = torch.where(large, 0.0, values).half().numpy().view(np.uint16)
    fraction = torch.where(large, values.abs() / _EXTENDED_UNIT - 1024, 0.0)
    extended = fraction.numpy().astype(np.uint16) + np.uint16(_EXTENDED)
    extended |= (values < 0).numpy().astype(np.uint16) << np.uint16(15)
    return np.where(large.numpy(), extended, patterns)
