# SPDX-License-Identifier: Apache-2.0
"""One quantized linear layer: codes, scales, bias, from a float weight."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lutvar.contract.formats import NumberFormat
from lutvar.contract.formats.ties import TieRule, check_ties
from lutvar.contract.hadamard import sign_vector
from lutvar.contract.quant_preset import GROUP, QuantConfig
from lutvar.contract.terms import ONE_TERM, Terms, check_terms
from lutvar.quant.var.sites import LinearSite

from .weights import (
    EXPONENT_RANGE,
    QuantizationError,
    checked_bias,
    fold_scales,
    folded_constant,
    grid_values,
    need_groups,
    round_weight,
)


class WeightSet(NamedTuple):
    """One set of codes that stands for a weight, or a part of it. As in `QuantizedLinear`."""

    codes: NDArray[np.uint8]
    scales: NDArray[np.uint16]
    exponent: int


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
        second: the second set of a weight in two terms, which is added to the first; else None.
        input_terms: codes whose sum an input is, 1 or 2.
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
    second: WeightSet | None = None
    input_terms: int = 1

    def __post_init__(self) -> None:
        if self.codes.ndim != 2:
            raise QuantizationError(f"{self.site}: codes are {self.codes.shape}, expected [O, I]")
        need_groups(str(self.site), self.inputs)
        self._need_array("bias", self.bias, np.float32, (self.outputs,))
        for number, weights in enumerate(self.sets):
            self._check_set("second " if number else "", weights)
        try:
            check_terms(str(self.site), self.terms, self.dual)
        except ValueError as error:
            raise QuantizationError(str(error)) from error
        largest = GROUP * self.activation_top * self.weight_format.positive.top
        if largest >= 1 << 24:
            raise QuantizationError(
                f"{self.site}: group sums of {self.activation_format.name} x "
                f"{self.weight_format.name} reach {largest}; "
                "exact float32 sums must stay below 2**24, use narrower formats"
            )
        check_ties(self.ties)

    def _need_array(
        self, name: str, value: NDArray[Any], dtype: type, shape: tuple[int, ...]
    ) -> None:
        if value.dtype != dtype or value.shape != shape:
            raise QuantizationError(
                f"{self.site}: {name} is {value.dtype} {value.shape}, "
                f"expected {np.dtype(dtype)} {shape}"
            )

    def _check_set(self, which: str, weights: WeightSet) -> None:
        """Raise QuantizationError for codes, scales or an exponent that the device cannot take."""
        self._need_array(f"{which}codes", weights.codes, np.uint8, (self.outputs, self.inputs))
        self._need_array(f"{which}scales", weights.scales, np.uint16, (self.outputs, self.groups))
        low, high = EXPONENT_RANGE
        if not low <= weights.exponent <= high:
            raise QuantizationError(
                f"{self.site}: {which}exponent {weights.exponent} is outside {low}..{high}"
            )
        present = np.flatnonzero(np.bincount(weights.codes.ravel(), minlength=256))
        unused = np.setdiff1d(present, self.weight_format.codes_used)
        if unused.size:
            raise QuantizationError(
                f"{self.site}: {which}weight code {unused[0]:#x} is not a code that "
                f"{self.weight_format.name} uses; the codes belong to another format"
            )
        if weights.scales.size and int(weights.scales.max()) > 0x7BFF:
            raise QuantizationError(
                f"{self.site}: {which}weight scale pattern {int(weights.scales.max()):#06x} is not "
                "a finite FP16 value of at least 0"
            )

    @property
    def sets(self) -> tuple[WeightSet, ...]:
        """The set of weight codes, or both."""
        first = WeightSet(self.codes, self.scales, self.exponent)
        return (first,) if self.second is None else (first, self.second)

    @property
    def terms(self) -> Terms:
        """Codes whose sum a weight is, and an input."""
        return Terms(len(self.sets), self.input_terms)

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

    def scale_values(self, number: int = 0) -> NDArray[np.float32]:
        """[O, G] float32: `ws * 2**e` of a set, exact."""
        weights = self.sets[number]
        values = weights.scales.view(np.float16).astype(np.float32)
        return np.ldexp(values, weights.exponent)

    def dequantized(self) -> Tensor:
        """[O, I] float32: the weight that the codes stand for, in the rotated basis if `rotate`."""
        total = torch.zeros(self.outputs, self.inputs, dtype=torch.float64)
        for number, weights in enumerate(self.sets):
            amax = torch.from_numpy(self.scale_values(number)).double() / self.constant
            total += grid_values(torch.from_numpy(weights.codes), amax, self.weight_format)
        return total.float()


@dataclass(frozen=True, eq=False)
class PrequantizedWeight:
    """A weight that was rounded elsewhere, in the basis that the array multiplies in.

    Attributes:
        codes: [O, I] uint8, codes of the preset's weight format.
        amax: [O, I / 128] float64, absolute maximum of each group (the value of `scale_top`).
        bias: [O], or None for zeros.
        second: codes and amax of the second set of a weight in two terms, or None.
        input_terms: codes whose sum an input is, 1 or 2.
    """

    codes: NDArray[np.uint8]
    amax: Tensor
    bias: Tensor | None
    second: tuple[NDArray[np.uint8], Tensor] | None = None
    input_terms: int = 1

    @property
    def sets(self) -> tuple[tuple[NDArray[np.uint8], Tensor], ...]:
        """Codes and amax of each set."""
        first = self.codes, self.amax
        return (first,) if self.second is None else (first, self.second)


def quantize_linear(
    site: LinearSite,
    weight: Tensor,
    bias: Tensor | None,
    config: QuantConfig,
    prequantized: PrequantizedWeight | None = None,
    terms: tuple[int, int] = ONE_TERM,
) -> QuantizedLinear:
    """Quantize one layer as its site in the preset says.

    Args:
        site: which linear; its name selects the activation format and the rotation.
        weight: [O, I] in float32 (shorter types are widened), I a multiple of 128.
        bias: [O], or None for zeros.
        config: preset.
        prequantized: codes and scales instead of those of `weight`; its bias replaces `bias`, its
            terms `terms`.
        terms: codes whose sum the weights and the inputs are.

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
        rounded = round_weight(site, weight, weight_format, seed, terms[0])
    else:
        rounded, bias = prequantized.sets, prequantized.bias
        terms = len(rounded), prequantized.input_terms
        for codes, amax in rounded:
            if codes.shape != (outputs, inputs) or not bool((amax.isfinite() & (amax >= 0)).all()):
                raise QuantizationError(
                    f"{site}: prequantized codes are {codes.shape}, the weight is "
                    f"{(outputs, inputs)}; scales must be finite and at least 0"
                )
    return rounded_linear(site, rounded, bias, config, treatment.format, treatment.rotate, terms[1])


def rounded_linear(
    site: LinearSite,
    rounded: Sequence[tuple[NDArray[np.uint8], Tensor]],
    bias: Tensor | None,
    config: QuantConfig,
    activation_format: NumberFormat,
    rotate: bool,
    input_terms: int,
) -> QuantizedLinear:
    """A layer of rounded weights: every constant folded into their scales.

    Args:
        site: its name, for errors.
        rounded: for each set of weights codes [O, I] and absolute maxima [O, G].
        bias: [O], or None for zeros.
        config: preset, for the weights' format, ties and the rotation's seed.
        activation_format, rotate, input_terms: what its inputs are made to.
    """
    constant = folded_constant(activation_format, config.weight_format, rotate)
    sets = [WeightSet(codes, *fold_scales(site, amax * constant)) for codes, amax in rounded]
    return QuantizedLinear(
        site=site,
        codes=sets[0].codes,
        scales=sets[0].scales,
        exponent=sets[0].exponent,
        bias=checked_bias(site, bias, len(rounded[0][0])),
        weight_format=config.weight_format,
        activation_format=activation_format,
        rotate=rotate,
        ties=config.ties,
        hadamard_seed=config.hadamard_seed,
        second=sets[1] if len(sets) == 2 else None,
        input_terms=input_terms,
    )
