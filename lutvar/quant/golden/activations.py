# SPDX-License-Identifier: Apache-2.0
"""Activations on the device: Hadamard transform and dynamic quantization (contract, 3 and 4)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lutvar.contract.formats import NumberFormat
from lutvar.contract.formats.ties import TieRule
from lutvar.contract.quant_preset import GROUP
from lutvar.contract.two_terms import FRACTION_BITS, PLACES, REST_THRESHOLD, check_two_terms
from lutvar.quant.formats.codec import codec, doubled_position
from lutvar.quant.formats.rounding import FP16, round_float
from lutvar.quant.formats.scales import ZERO_GROUP
from lutvar.quant.ptq.rotation import signed_hadamard

from .fp16 import Patterns, patterns_of, values_of


class ActivationCodes(NamedTuple):
    """What the quantizer hands on. R rows, I inputs, G groups.

    In two terms I and G are twice as large: term 1 of input group g is group 2g, term 2 is group
    2g + 1.

    Attributes:
        codes: [R, I] uint8.
        scale: [R, G] FP16 patterns of the absolute maximum (of the positive half, if dual);
            0 for a zero group.
        scale_neg: [R, G] extended FP16 patterns of the negative half's scale; all 0 in
            single-scale formats.
    """

    codes: NDArray[np.uint8]
    scale: Patterns
    scale_neg: Patterns


def hadamard_fp16(patterns: Patterns, signs: Sequence[int]) -> Patterns:
    """Group-wise transform `RNE_fp16(2**-7 * H (d * x))`.

    A sum of exactly zero gives +0; a negative sum that rounds to zero gives -0.

    Args:
        patterns: [..., I] FP16 patterns, extended range allowed; I a multiple of 128.
        signs: 128 entries +1 or -1.

    Returns:
        Patterns of the same shape.
    """
    # Sums of 128 multiples of 2**-24 below 2**17 are exact in float64, in any order. Adding +0
    # makes a negative zero (all terms -0) positive.
    exact = signed_hadamard(values_of(patterns).double(), signs).div_(GROUP).add_(0.0)
    return patterns_of(torch.copysign(round_float(exact, FP16), exact))


def quantize_activations(
    patterns: Patterns, fmt: NumberFormat, ties: TieRule = TieRule.EVEN, terms: int = 1
) -> ActivationCodes:
    """Quantize rows of FP16 values in groups of 128 by exact comparison.

    Args:
        patterns: [R, I] FP16 patterns, I a multiple of 128.
        fmt: activation format.
        ties: where a tie goes.
        terms: 2 to quantize what the codes leave of each value as well.

    Raises:
        ValueError: I is not a multiple of 128, or a pattern has exponent field 31 (the
            device's roundings to FP16 saturate, so it has none); two terms in a format that
            has none (`check_two_terms`).
    """
    if terms not in (1, 2):
        raise ValueError(f"terms is {terms}; it must be 1 or 2")
    if terms == 2:
        check_two_terms(fmt)
        first = quantize_activations(patterns, fmt, ties)
        return _interleaved(first, _second_term(patterns, first, fmt, ties))
    rows, inputs = patterns.shape
    if inputs % GROUP:
        raise ValueError(f"rows of {inputs} values: must be a multiple of {GROUP}")
    # float32 is enough for exact decisions on FP16 values, see doubled_position.
    x = values_of(patterns).view(rows, inputs // GROUP, GROUP)
    absolute = x.abs().amax(-1)
    if bool((absolute > FP16.largest).any()):
        row, g = (int(i) for i in (absolute > FP16.largest).nonzero()[0])
        raise ValueError(
            f"row {row}, group {g}: value of magnitude {float(absolute[row, g])} is beyond FP16; "
            "the device stops with error NONFINITE (use to_fp16, which saturates)"
        )
    if not fmt.dual:
        amax = _without_zero_groups(absolute)
        position = doubled_position(x, 2.0 * fmt.scale_top(), _divisor(amax).unsqueeze(-1))
        scale, scale_neg = patterns_of(amax), np.zeros(amax.shape, np.uint16)
    else:
        amax = _without_zero_groups(x.amax(-1))
        amax_neg = _without_zero_groups(-x.amin(-1))
        top, top_neg = fmt.scale_top(), fmt.scale_top(negative=True)
        # Each value has a nonzero position in its own half only, so the sum is exact.
        above = doubled_position(x, 2.0 * top, _divisor(amax).unsqueeze(-1)).clamp_min_(0)
        below = doubled_position(x, 2.0 * top_neg, _divisor(amax_neg).unsqueeze(-1)).clamp_max_(0)
        position = above.add_(below)
        scale = patterns_of(amax)
        # The quotient is too far from any FP16 rounding boundary for float64 to matter.
        scale_neg = patterns_of(round_float(amax_neg.double() * top / top_neg, FP16))
    codes = codec(fmt, ties).encode_doubled(position)
    return ActivationCodes(codes.view(rows, inputs).numpy(), scale, scale_neg)


def _second_term(
    patterns: Patterns, first: ActivationCodes, fmt: NumberFormat, ties: TieRule
) -> ActivationCodes:
    """Codes and scales of what term 1 leaves, from the products that the lanes compute."""
    rows, inputs = patterns.shape
    shape = (rows, inputs // GROUP, GROUP)
    scale_RG = first.scale.astype(np.int32)
    field, s_x = _exponent_and_significand(patterns.reshape(shape))
    field_m, s_m = _exponent_and_significand(scale_RG)
    top = fmt.scale_top()
    # R = ceil(2 M 2**22 / s_m), and 0 in a zero group.
    reciprocal = np.where(scale_RG > 0, -(-(top << PLACES + 1) // np.maximum(s_m, 1)), 0)
    product = s_x * reciprocal[..., None]
    # A zero group has product 0, whatever the difference of its exponents; no product has 31 bits.
    distance = (field_m[..., None] - field).clip(0, 30 - (PLACES - FRACTION_BITS))
    doubled = product >> PLACES - FRACTION_BITS + distance
    magnitudes = np.array([abs(fmt.decode_int(c) or 0) for c in range(fmt.code_count)], np.int32)
    rest = doubled - (magnitudes << FRACTION_BITS + 1)[first.codes.reshape(shape)]
    rest[np.maximum(rest.max(-1), -rest.min(-1)) < REST_THRESHOLD] = 0
    negative = patterns.reshape(shape) >> 15 != 0
    values = np.where(negative, -rest, rest).astype(np.float16)
    second = quantize_activations(values.view(np.uint16).reshape(rows, inputs), fmt, ties)
    # A quotient of integers as short as these is nearer to a tie of FP16 than float64 can tell only
    # where it is one, and then it is exact.
    exact = values_of(second.scale).double() * values_of(first.scale).double()
    exact /= top << FRACTION_BITS + 1
    live = exact >= ZERO_GROUP
    scale = patterns_of(torch.where(live, round_float(exact, FP16), 0.0))
    codes = np.where(live.numpy()[..., None], second.codes.reshape(shape), 0)
    return ActivationCodes(codes.astype(np.uint8).reshape(rows, inputs), scale, second.scale_neg)


def _exponent_and_significand(
    patterns: NDArray[np.integer],
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Exponent fields, 1 for subnormal patterns, and significands with the hidden bit."""
    wide = patterns.astype(np.int32)
    field = wide >> 10 & 31
    return np.maximum(field, 1), wide & 1023 | (field > 0).astype(np.int32) << 10


def _interleaved(first: ActivationCodes, second: ActivationCodes) -> ActivationCodes:
    """Groups of both terms, one of each in turn."""
    rows, groups = first.scale.shape
    codes = np.stack([c.reshape(rows, groups, GROUP) for c in (first.codes, second.codes)], 2)
    scale, scale_neg = (
        np.stack(pair, 2).reshape(rows, -1)
        for pair in zip(first[1:], second[1:], strict=True)
    )  # fmt: skip
    return ActivationCodes(codes.reshape(rows, -1), scale, scale_neg)


def _without_zero_groups(amax: Tensor) -> Tensor:
    """Absolute maxima with those of zero groups replaced by 0."""
    return torch.where(amax < ZERO_GROUP, 0.0, amax)


def _divisor(amax: Tensor) -> Tensor:
    """What to divide by: infinity for zero groups, which makes every code 0."""
    return torch.where(amax == 0, torch.inf, amax)
