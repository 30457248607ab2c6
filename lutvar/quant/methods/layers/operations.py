# SPDX-License-Identifier: Apache-2.0
"""Operations on a layer's input, each with the change of the weight that makes up for it.

Functions change a `Layer` so that its float result stays the same: channel scaling (x s, W / s),
channel shifting (x + t, b - W t) and rotation (x Q, W Q).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lutvar.contract.hadamard import sign_vector
from lutvar.quant.ptq.rotation import sylvester
from lutvar.quant.var.sites import SiteName

from .layer import InputOperation, Layer

#: Sites whose input comes straight from an adaptive layer norm: scale and shift fold into its
#: vectors, so they cost nothing at run time.
NORM_SITES: tuple[SiteName, ...] = ("qkv", "fc1", "head")
#: With fc2: the accelerator multiplies GELU's results with a vector and adds one, at no cost.
VECTOR_SITES: tuple[SiteName, ...] = (*NORM_SITES, "fc2")


@dataclass(frozen=True)
class ChannelScale:
    """x s."""

    s_I: Tensor
    free: bool

    def __call__(self, x: Tensor) -> Tensor:
        return x * self.s_I

    def describe(self) -> str:
        """The operation in a few words, for reports."""
        return "channel scale" + ("" if self.free else " (a product for each value)")


@dataclass(frozen=True)
class ChannelShift:
    """x + t."""

    t_I: Tensor
    free: bool

    def __call__(self, x: Tensor) -> Tensor:
        return x + self.t_I

    def describe(self) -> str:
        """The operation in a few words, for reports."""
        return "channel shift" + ("" if self.free else " (a sum for each value)")


@dataclass(frozen=True)
class Rotation:
    """x Q for each block of `matrix.shape[0]` channels; Q is orthogonal.

    `seed` names the sign vector of a signed Hadamard transform of size 128 (what the accelerator
    computes), or is None for another matrix.
    """

    matrix_DD: Tensor
    seed: int | None = None

    def __call__(self, x: Tensor) -> Tensor:
        size = self.matrix_DD.shape[0]
        return (x.unflatten(-1, (-1, size)) @ self.matrix_DD.to(x.dtype)).flatten(-2)

    def describe(self) -> str:
        """The operation in a few words, for reports."""
        return f"rotation of {self.matrix_DD.shape[0]} channels"


def scale_channels(layer: Layer, s_I: Tensor, signed: bool = False) -> None:
    """Multiply the input by s [I] > 0 (with `signed` also below 0) and divide the weight by it.

    Raises:
        ValueError: factors that are not finite and positive, or, signed, that are 0.
    """
    sizes_I = s_I.abs() if signed else s_I
    fine = bool((sizes_I.isfinite() & (sizes_I > 0)).all())
    if s_I.shape != (layer.weight_OI.shape[1],) or not fine:
        raise ValueError(
            f"{layer.site}: channel factors of shape {tuple(s_I.shape)}, {float(s_I.min()):g} to "
            f"{float(s_I.max()):g}; they must be {layer.weight_OI.shape[1]} finite numbers "
            + ("other than 0" if signed else "above 0")
        )
    layer.need_unrounded("channel factors")
    free = layer.site.name in VECTOR_SITES and all(
        isinstance(op, ChannelScale | ChannelShift) for op in layer.operations
    )
    layer.operations.append(ChannelScale(s_I.float(), free))
    layer.weight_OI = layer.weight_OI / s_I


def shift_channels(layer: Layer, t_I: Tensor) -> None:
    """Add t [I] to the input and subtract W t from the bias."""
    free = layer.site.name in VECTOR_SITES and all(
        isinstance(op, ChannelScale | ChannelShift) for op in layer.operations
    )
    layer.operations.append(ChannelShift(t_I.float(), free))
    offset_O = layer.weight_OI @ t_I
    layer.bias_O = -offset_O if layer.bias_O is None else layer.bias_O - offset_O


def channel_affine(layer: Layer) -> tuple[Tensor | None, Tensor | None]:
    """(s, t), each [I] or None: a layer's channel factors and shifts together are x s + t."""
    scale_I: Tensor | None = None
    shift_I: Tensor | None = None
    for operation in layer.operations:
        if isinstance(operation, ChannelScale):
            s_I = operation.s_I.double()
            scale_I = s_I if scale_I is None else scale_I * s_I
            shift_I = None if shift_I is None else shift_I * s_I
        elif isinstance(operation, ChannelShift):
            t_I = operation.t_I.double()
            shift_I = t_I if shift_I is None else shift_I + t_I
    return tuple(None if v is None else v.float() for v in (scale_I, shift_I))  # type: ignore[return-value]


def round_vectors(layer: Layer) -> None:
    """Join the channel factors and shifts of a layer to one of each in FP16, weight and bias too.

    For fc2, whose vectors the accelerator reads as FP16: later steps then see what it computes.
    Does nothing where other operations are among them.
    """
    if not all(isinstance(op, ChannelScale | ChannelShift) for op in layer.operations):
        return
    layer.need_unrounded("channel factors and shifts")
    scale_I, shift_I = channel_affine(layer)
    weight_OI = layer.weight_OI.double()
    offset_O = torch.zeros(len(weight_OI), dtype=torch.float64)
    operations: list[InputOperation] = []
    if shift_I is not None:
        offset_O += weight_OI @ shift_I.double()
    if scale_I is not None:
        half_I = scale_I.half().float()
        weight_OI = weight_OI * (scale_I.double() / half_I)
        operations.append(ChannelScale(half_I, True))
    if shift_I is not None:
        half_I = shift_I.half().float()
        offset_O -= weight_OI @ half_I.double()
        operations.append(ChannelShift(half_I, True))
    layer.operations, layer.weight_OI = operations, weight_OI.float()
    if shift_I is not None:
        assert layer.bias_O is not None
        layer.bias_O = (layer.bias_O.double() + offset_O).float()


def rotate(layer: Layer, matrix_DD: Tensor, seed: int | None = None) -> None:
    """Rotate input and weight by an orthogonal float64 matrix [D, D], D a divisor of I."""
    layer.need_unrounded("a rotation")
    size = matrix_DD.shape[0]
    outputs, inputs = layer.weight_OI.shape
    if inputs % size:
        raise ValueError(f"{layer.site}: {inputs} channels do not divide into blocks of {size}")
    rotated = layer.weight_OI.double().view(outputs, -1, size) @ matrix_DD
    layer.weight_OI = rotated.reshape(outputs, inputs).float()
    layer.operations.append(Rotation(matrix_DD.float(), seed))


def hadamard_matrix(size: int = 128, seed: int | None = 42) -> Tensor:
    """diag(d) H / sqrt(size), float64; d is the shared sign vector of the seed (size 128 only)."""
    matrix = sylvester(size) / math.sqrt(size)
    if seed is None:
        return matrix
    if size == 128:
        signs = torch.tensor(sign_vector(seed), dtype=torch.float64)
    else:
        draw = torch.Generator().manual_seed(seed)
        signs = torch.randint(0, 2, (size,), generator=draw).double() * 2 - 1
    return matrix * signs.unsqueeze(1)
