# SPDX-License-Identifier: Apache-2.0
"""Weights to codes, scales and biases that the accelerator takes (contract, section 6)."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lutvar.contract.formats import NumberFormat
from lutvar.contract.formats.ties import TieRule
from lutvar.contract.hadamard import sign_vector
from lutvar.contract.quant_preset import GROUP
from lutvar.quant.formats.codec import codec
from lutvar.quant.formats.quantize import check_finite, quantize
from lutvar.quant.formats.rounding import FP16, round_float
from lutvar.quant.var.sites import LinearSite

from .rotation import signed_hadamard

EXPONENT_RANGE = (-32, 31)  #: of SCALE_EXP
BIAS_LARGEST, BIAS_SMALLEST = 2.0**64, 2.0**-80
#: Output rows rotated and encoded at a time; bounds the float64 temporaries.
_CHUNK_VALUES = 1 << 21


class QuantizationError(ValueError):
    """A layer that cannot be quantized for the accelerator; names the layer, value and rule."""


def folded_constant(activation: NumberFormat, weight: NumberFormat, rotate: bool) -> float:
    """`c = 1 / (M_activation M_weight) * (2**3.5 if rotated else 1)`, contract section 6."""
    return (2.0**3.5 if rotate else 1.0) / (activation.scale_top() * weight.scale_top())


def need_groups(name: str, inputs: int) -> None:
    """Raise QuantizationError unless an input width is a whole number of groups."""
    if inputs < GROUP or inputs % GROUP:
        raise QuantizationError(
            f"{name}: input width {inputs} is not a multiple of {GROUP}; scales and the Hadamard "
            f"transform work on groups of {GROUP}. Use a model whose widths are multiples of it"
        )


def grid_values(codes: Tensor, amax: Tensor, fmt: NumberFormat) -> Tensor:
    """[O, I] float64: what weight codes stand for; amax [O, I / 128] float64."""
    grid = codec(fmt).grid(codes, torch.float64)
    return grid * (amax / fmt.scale_top()).repeat_interleave(GROUP, 1)


def round_weight(
    site: LinearSite, weight: Tensor, fmt: NumberFormat, seed: int | None, terms: int = 1
) -> tuple[tuple[NDArray[np.uint8], Tensor], ...]:
    """Round a weight to nearest, every decision exact (contract, section 6).

    Args:
        site: for messages.
        weight: [O, I].
        fmt: a format with one scale.
        seed: of the signs of the Hadamard transform that comes first; None: there is none.
        terms: sets of codes, each of what those before it leave.

    Returns:
        For each set codes [O, I] and absolute maxima of the groups, float64 [O, I / 128].

    Raises:
        QuantizationError: a value that is not finite.
    """
    outputs, inputs = weight.shape
    weight = weight.detach().cpu().float()
    try:
        check_finite(weight)
    except ValueError as error:
        raise QuantizationError(f"{site}: weight: {error}") from error
    groups = inputs // GROUP
    sets = tuple(
        (np.empty((outputs, inputs), np.uint8), torch.empty(outputs, groups, dtype=torch.float64))
        for _ in range(terms)
    )
    step = max(1, _CHUNK_VALUES // inputs)
    for start in range(0, outputs, step):
        rows = slice(start, start + step)
        part = weight[rows]
        if seed is not None:
            part = (signed_hadamard(part.double(), sign_vector(seed)) / math.sqrt(GROUP)).float()
        for number, (codes, amax) in enumerate(sets):
            if number:
                before, its_amax = sets[number - 1]
                first = grid_values(torch.from_numpy(before[rows]), its_amax[rows], fmt)
                part = (part.double() - first).float()
            quantized = quantize(part, fmt, ties=TieRule.EVEN)
            codes[rows] = quantized.codes.numpy()
            amax[rows] = quantized.scales.double()
    return sets


def fold_scales(site: LinearSite, values: Tensor) -> tuple[NDArray[np.uint16], int]:
    """FP16 patterns and exponent e of folded scales (float64 [O, G]).

    e puts the largest pattern, after rounding, in [2**10, 2**11): the scales then use FP16's
    range downward. A layer with tiny scales stops at the smallest e that the register holds.
    """
    low, high = EXPONENT_RANGE
    largest = float(values.max())
    exponent = math.frexp(largest)[1] - 11 if largest else 0
    exponent = max(exponent, low)
    if float(round_float(values.max() * 2.0**-exponent, FP16)) >= 2.0**11:
        exponent += 1
    if exponent > high:
        raise QuantizationError(
            f"{site}: the largest folded weight scale is {largest:g}; scales of 2**42 and more do "
            f"not fit exponent {high}. The weights are out of any useful range"
        )
    rounded = round_float(values * 2.0**-exponent, FP16)
    return rounded.half().numpy().view(np.uint16), exponent


def checked_bias(site: LinearSite, bias: Tensor | None, outputs: int) -> NDArray[np.float32]:
    """Bias as float32: rejected if the device could not add it, flushed to 0 if too small."""
    if bias is None:
        return np.zeros(outputs, np.float32)
    values = bias.detach().cpu().float().numpy().copy()
    bad = ~(np.abs(values) <= BIAS_LARGEST)
    if bad.any():
        index = int(bad.argmax())
        raise QuantizationError(
            f"{site}: bias[{index}] is {values[index]}; it must be finite and at most 2**64"
        )
    values[np.abs(values) < BIAS_SMALLEST] = 0.0
    return values
