# SPDX-License-Identifier: Apache-2.0
"""Element by element between the large products (contract, sections 7, 8 and 10).

Arrays of any leading shape; FP16 numbers are numpy float16 (`.view(np.uint16)` gives patterns),
scales of records are patterns.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from lutvar.contract import decoder_host, functions
from lutvar.contract.accelerator import HEAD_DIM
from lutvar.contract.formats import NumberFormat
from lutvar.contract.formats.ties import TieRule
from lutvar.quant.formats.codec import codec
from lutvar.quant.formats.grouping import group
from lutvar.quant.formats.quantize import quantize

Float32 = NDArray[np.float32]
Half = NDArray[np.float16]

FP16_LARGEST = decoder_host.FP16_LARGEST
RecordKind = Literal["q", "k", "v"]


class Records(NamedTuple):
    """Quantized heads of q, k or v.

    Attributes:
        codes: [..., 64] uint8.
        scales: [...] FP16 patterns.
    """

    codes: NDArray[np.uint8]
    scales: NDArray[np.uint16]


def fp16(y: NDArray[Any]) -> Half:
    """Round float32 or float64 once to FP16: nearest even, gradual underflow, saturated.

    An exact zero gives +0; a negative value that rounds to zero gives -0.
    """
    if y.dtype == np.float32 and y.ndim:
        # torch uses the processor's instruction, NumPy does not; the same rounding, many times
        # as fast. From float64 torch would round twice.
        limited = np.clip(y + np.float32(0), -FP16_LARGEST, FP16_LARGEST)
        result: Half = torch.from_numpy(limited).half().numpy()
        return result
    return decoder_host.fp16(y)


def float32(x: Half) -> Float32:
    """The same numbers in float32."""
    if not x.ndim:
        return x.astype(np.float32)
    found: Float32 = torch.from_numpy(x if x.flags.writeable else x.copy()).float().numpy()
    return found


def multiply(x: Float32, y: Float32 | np.float32) -> Float32:
    """`RNE(x * y)`; an exact zero is +0 whatever the signs (section 7)."""
    # Adding +0 changes only -0, and no product of the device underflows.
    return x * y + np.float32(0)


def store(y: Float32, g: NDArray[np.float16] | float) -> Float32:
    """STORE: `RNE(y * g)`; g is a vector over columns or a scalar that is an FP16 number."""
    return multiply(np.asarray(y, np.float32), _gate(g))


def add(x: Float32, y: Float32, g: NDArray[np.float16] | float) -> Float32:
    """ADD: `RNE(x + RNE(y * g))`."""
    return np.asarray(x, np.float32) + store(y, g)


def gelu(
    y: Float32, g: NDArray[np.float16] | float = 1.0, shift: NDArray[np.float16] | None = None
) -> Half:
    """GELU: `fp16(RNE(RNE(t * g) + shift))`, t = `y * gate(y)` in 24 bits, rounded to odd.

    With g 1 and without shift one rounding of the exact product.

    Args:
        y: float32 [..., N].
        g: FP16 factors [N], or a scalar that is an FP16 number.
        shift: FP16 [N].
    """
    y = np.asarray(y, np.float32)
    scaled = multiply(_gated(y, functions.gelu_factor(y)), _gate(g))
    if shift is not None:
        scaled = scaled + float32(np.asarray(shift, np.float16))
    return fp16(scaled)


def silu(y: Float32) -> Half:
    """SiLU: `fp16(y * gate(y))`, one rounding of the exact product."""
    y = np.asarray(y, np.float32)
    return fp16(_gated(y, functions.silu_factor(y)))


def normalise(
    x: Float32,
    g: NDArray[np.float16] | float = 1.0,
    shift: NDArray[np.float16] | None = None,
    *,
    gate: bool = False,
) -> Half:
    """NORM: `t = RNE(RNE(x * g) + shift)`, then `fp16(t)` or SiLU of t.

    Args:
        x: float32 [..., N].
        g, shift: FP16, broadcast against x; a scalar g is an FP16 number.
        gate: SiLU follows.
    """
    t = multiply(np.asarray(x, np.float32), _gate(g))
    if shift is not None:
        t = t + float32(np.asarray(shift, np.float16))
    return silu(t) if gate else fp16(t)


def _gated(y: Float32, gate: NDArray[np.int32]) -> Float32:
    """`y * gate` in 24 bits, rounded to odd; the gate in units of 2**-16."""
    # 24 significant bits times 17: exact in float64.
    return _odd(y.astype(np.float64) * gate.astype(np.float64) * 2.0**-functions.GELU_ONE)


def _odd(x: NDArray[np.float64]) -> Float32:
    """float64 in 24 significant bits, rounded to odd: cut off, the last bit set if inexact."""
    patterns = np.ascontiguousarray(x).view(np.uint64)
    cut = patterns & np.uint64((1 << 29) - 1)
    odd = patterns - cut | (cut != 0).astype(np.uint64) << np.uint64(29)
    return odd.view(np.float64).astype(np.float32)


def rsqrt(v: NDArray[Any]) -> NDArray[np.float64]:
    """The tabulated `1 / sqrt(v)` of positive float32 values (19 significant bits, exact)."""
    y, k = functions.rsqrt(np.asarray(v, np.float32))
    return np.ldexp(y.astype(np.float64), -functions.RSQRT_ONE - k)


def records(
    y: Float32, fmt: NumberFormat, kind: RecordKind, kappa: NDArray[np.float16] | float = 1.0
) -> Records:
    """QKV: the 64 values of each row and head as codes and a scale.

    Args:
        y: [..., 64] float32 results of the qkv layer.
        fmt: E2M3 or E2M1.
        kind: which of the three.
        kappa: FP16, broadcast against [...]; for q only.
    """
    if y.shape[-1] != HEAD_DIM:
        raise ValueError(f"rows of {y.shape[-1]} values; a head has {HEAD_DIM}")
    if kind not in ("q", "k", "v"):
        raise ValueError(f"kind {kind!r}; q, k or v")
    values = torch.from_numpy(fp16(np.asarray(y, np.float32)))
    quantized = quantize(values, fmt, group(HEAD_DIM), ties=TieRule.EVEN)
    codes = quantized.codes.numpy()
    if kind == "v":
        amax = np.ascontiguousarray(quantized.scales[..., 0].numpy())
        return Records(codes, amax.view(np.uint16))
    grid = codec(fmt).grid(quantized.codes, torch.float64)
    squares = grid.square().sum(-1).numpy()
    inverse = np.where(squares > 0, rsqrt(np.maximum(squares, 1)), 0.0)
    if kind == "q":
        # 11 significant bits times 19: exact in float64.
        inverse = inverse * np.asarray(kappa, np.float16).astype(np.float64)
    return Records(codes, fp16(inverse).view(np.uint16))


def _gate(g: NDArray[np.float16] | float) -> Float32:
    values = np.asarray(g)
    rounded = values.astype(np.float16)
    if values.dtype != np.float16 and not np.array_equal(rounded, values):
        raise ValueError(f"g is {g}; it must be an FP16 number")
    return float32(rounded)
