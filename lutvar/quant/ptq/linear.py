# SPDX-License-Identifier: Apache-2.0
"""One quantized linear layer: codes, scales, bias, from a float weight (contract, section 6)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lutvar.contract.formats import NumberFormat
from lutvar.contract.formats.ties import TieRule, check_ties
from lutvar.contract.hadamard import sign_vector
from lutvar.contract.quant_preset import GROUP, QuantConfig
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


@dataclass(frozen=True, eq=False)
class QuantizedLinear:
    """A linear layer as the accelerator runs it. O outputs, I inputs, G = I / 128 groups.

    Attributes:
        site: which linear of the model.
        codes: [O, I] uint8, weight codes.
        scales: [O, G] uint16, FP16 patterns `ws`; constants of the layer folded in.
        exponent: the layer's power of two `e`.
        bias: [O] float32, each 0 or between 2**-80 and 2**64 in magnitude.
        weight_format, activation_format: number formats.
        rotate: the input passes the Hadamard transform.
        ties: tie rule of the activations.
        hadamard_seed: seed of the sign vector.
    """

    site: LinearSite
    codes: NDArray[np.uint8]
    scales: NDArray[np.uint16]
    exponent: int
    bias: NDArray[np.float32]
    weight_format: NumberFormat
    activation_format: NumberFormat
    rotate: bool
    ties: TieRule = TieRule.EVEN
    hadamard_seed: int = 42

    def __post_init__(self) -> None:
        if self.codes.ndim != 2:
            raise QuantizationError(f"{self.site}: codes are {self.codes.shape}, expected [O, I]")
        outputs, inputs = self.codes.shape
        need_groups(str(self.site), inputs)
        expected = {
            "codes": (np.uint8, (outputs, inputs)),
            "scales": (np.uint16, (outputs, inputs // GROUP)),
            "bias": (np.float32, (outputs,)),
        }
        for name, (dtype, shape) in expected.items():
            value = getattr(self, name)
            if value.dtype != dtype or value.shape != shape:
                raise QuantizationError(
                    f"{self.site}: {name} is {value.dtype} {value.shape}, "
                    f"expected {np.dtype(dtype)} {shape}"
                )
        low, high = EXPONENT_RANGE
        if not low <= self.exponent <= high:
            raise QuantizationError(
                f"{self.site}: exponent {self.exponent} is outside {low}..{high}"
            )
        present = np.flatnonzero(np.bincount(self.codes.ravel(), minlength=256))
        unused = np.setdiff1d(present, self.weight_format.codes_used)
        if unused.size:
            raise QuantizationError(
                f"{self.site}: weight code {unused[0]:#x} is not a code that "
                f"{self.weight_format.name} uses; the codes belong to another format"
            )
        if self.scales.size and int(self.scales.max()) > 0x7BFF:
            raise QuantizationError(
                f"{self.site}: weight scale pattern {int(self.scales.max()):#06x} is not a finite "
                "FP16 value of at least 0"
            )
        largest = GROUP * self.activation_top * self.weight_format.positive.top
        if largest >= 1 << 24:
            raise QuantizationError(
                f"{self.site}: group sums of {self.activation_format.name} x "
                f"{self.weight_format.name} reach {largest}; "
                "exact float32 sums must stay below 2**24, use narrower formats"
            )
        check_ties(self.ties)

    @property
    def name(self) -> str:
        """Name of the site, for messages."""
        return str(self.site)

    @property
    def outputs(self) -> int:
        """Output channels, O."""
        return self.codes.shape[0]

    @property
    def inputs(self) -> int:
        """Input channels, I."""
        return self.codes.shape[1]

    @property
    def groups(self) -> int:
        """Groups of 128 inputs that share a scale, G."""
        return self.inputs // GROUP

    @property
    def dual(self) -> bool:
        """The activation format has a scale for each sign: two passes for each group."""
        return self.activation_format.dual

    @property
    def signs(self) -> tuple[int, ...]:
        """The 128 signs of the Hadamard transform."""
        return sign_vector(self.hadamard_seed)

    @property
    def activation_top(self) -> int:
        """Largest grid integer of an activation code, either sign."""
        fmt = self.activation_format
        return max(fmt.positive.top, fmt.negative.top)

    @property
    def constant(self) -> float:
        """The constant `c` that the weight scales contain."""
        return folded_constant(self.activation_format, self.weight_format, self.rotate)

    def scale_values(self) -> NDArray[np.float32]:
        """[O, G] float32: `ws * 2**e`, exact."""
        values = self.scales.view(np.float16).astype(np.float32)
        return np.ldexp(values, self.exponent)

    def dequantized(self) -> Tensor:
        """[O, I] float32: the weight that the codes stand for, in the rotated basis if `rotate`."""
        amax = torch.from_numpy(self.scale_values()).double() / self.constant
        grid = codec(self.weight_format).grid(torch.from_numpy(self.codes), torch.float64)
        scales = (amax / self.weight_format.scale_top()).repeat_interleave(GROUP, 1)
        return (grid * scales).float()


@dataclass(frozen=True, eq=False)
class PrequantizedWeight:
    """A weight that was rounded elsewhere, in the basis that the array multiplies in.

    Attributes:
        codes: [O, I] uint8, codes of the preset's weight format.
        amax: [O, I / 128] float64, absolute maximum of each group (the value of `scale_top`).
        bias: [O], or None for zeros.
    """

    codes: NDArray[np.uint8]
    amax: Tensor
    bias: Tensor | None


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


def quantize_linear(
    site: LinearSite,
    weight: Tensor,
    bias: Tensor | None,
    config: QuantConfig,
    prequantized: PrequantizedWeight | None = None,
) -> QuantizedLinear:
    """Quantize one layer as its site in the preset says.

    Args:
        site: which linear; its name selects the activation format and the rotation.
        weight: [O, I] in float32 (shorter types are widened), I a multiple of 128.
        bias: [O], or None for zeros.
        config: preset.
        prequantized: codes and scales instead of those of `weight`; its bias replaces `bias`.

    Raises:
        QuantizationError: shape, range or a value that is not finite.
    """
    # The head is treated as fc1 is (contract, section 12).
    treatment = config.sites["fc1" if site.name == "head" else site.name]
    weight_format = config.weight_format
    outputs, inputs = weight.shape
    need_groups(str(site), inputs)
    if prequantized is None:
        seed = config.hadamard_seed if treatment.rotate else None
        codes, amax = round_weight(site, weight, weight_format, seed)
    else:
        codes, amax, bias = prequantized.codes, prequantized.amax, prequantized.bias
        if codes.shape != (outputs, inputs) or not bool((amax.isfinite() & (amax >= 0)).all()):
            raise QuantizationError(
                f"{site}: prequantized codes are {codes.shape}, the weight is {(outputs, inputs)}; "
                "scales must be finite and at least 0"
            )
    constant = folded_constant(treatment.format, weight_format, treatment.rotate)
    scales, exponent = fold_scales(site, amax * constant)
    return QuantizedLinear(
        site=site,
        codes=codes,
        scales=scales,
        exponent=exponent,
        bias=checked_bias(site, bias, outputs),
        weight_format=weight_format,
        activation_format=treatment.format,
        rotate=treatment.rotate,
        ties=config.ties,
        hadamard_seed=config.hadamard_seed,
    )


def round_weight(
    site: LinearSite, weight: Tensor, fmt: NumberFormat, seed: int | None
) -> tuple[NDArray[np.uint8], Tensor]:
    """Round a weight to nearest, every decision exact (contract, section 6).

    Args:
        site: for messages.
        weight: [O, I].
        fmt: a format with one scale.
        seed: of the signs of the Hadamard transform that comes first; None: there is none.

    Returns:
        Codes [O, I] and absolute maxima of the groups, float64 [O, I / 128].

    Raises:
        QuantizationError: a value that is not finite.
    """
    outputs, inputs = weight.shape
    weight = weight.detach().cpu().float()
    try:
        check_finite(weight)
    except ValueError as error:
        raise QuantizationError(f"{site}: weight: {error}") from error
    codes = np.empty((outputs, inputs), np.uint8)
    amax = torch.empty(outputs, inputs // GROUP, dtype=torch.float64)
    step = max(1, _CHUNK_VALUES // inputs)
    for start in range(0, outputs, step):
        rows = slice(start, start + step)
        part = weight[rows]
        if seed is not None:
            part = (signed_hadamard(part.double(), sign_vector(seed)) / math.sqrt(GROUP)).float()
        quantized = quantize(part, fmt, ties=TieRule.EVEN)
        codes[rows] = quantized.codes.numpy()
        amax[rows] = quantized.scales.double()
    return codes, amax


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
