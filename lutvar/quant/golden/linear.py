# SPDX-License-Identifier: Apache-2.0
"""A linear layer at code level: exact group sums, float32 accumulation (contract, section 5)."""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lutvar.contract.quant_preset import GROUP
from lutvar.quant.formats.codec import codec
from lutvar.quant.ptq.linear import QuantizedLinear

from .activations import ActivationCodes, hadamard_fp16, quantize_activations
from .fp16 import Patterns, to_fp16, values_of

#: Results computed at a time: accumulator, group sum and scale of a chunk stay in the cache.
_CHUNK_RESULTS = 1 << 17


class GoldenResult(NamedTuple):
    """Everything a layer computed. R rows, O outputs, I inputs, G groups, P passes.

    Attributes:
        y: [R, O] float32.
        inputs: [R, I] FP16 patterns that were quantized (after the rotation, if any).
        activations: codes and scales.
        group_sums: [R, O, P] int32 exact sums in the order they are added (all groups with the
            first set of weights, then with the second; for a dual format negative and positive half
            of each group in turn, for inputs in two terms both), or None unless asked for.
    """

    y: NDArray[np.float32]
    inputs: Patterns
    activations: ActivationCodes
    group_sums: NDArray[np.int32] | None


class GoldenLinear:
    """A layer prepared for many calls: weight codes as float32 grid integers, scales unfolded.

    Attributes:
        layer: the quantized layer.
    """

    def __init__(self, layer: QuantizedLinear) -> None:
        self.layer = layer
        grid = codec(layer.weight_format).grid
        #: Of each set of weights: grid integers [O, I], unfolded scales [G, O].
        self._sets = [
            (
                grid(torch.from_numpy(weights.codes)),
                torch.from_numpy(layer.scale_values(number)).T.contiguous(),
            )
            for number, weights in enumerate(layer.sets)
        ]
        self._bias_O = torch.from_numpy(layer.bias)

    def quantize(
        self, x: Tensor | NDArray[np.float32], terms: int | None = None
    ) -> tuple[Patterns, ActivationCodes]:
        """FP16 patterns (rotated if the layer says so) and codes of float32 rows [R, I].

        `terms`: of the inputs, instead of the layer's.
        """
        patterns = to_fp16(x)
        if self.layer.rotate:
            patterns = hadamard_fp16(patterns, self.layer.signs)
        fmt, ties = self.layer.activation_format, self.layer.ties
        return patterns, quantize_activations(patterns, fmt, ties, terms or self.layer.input_terms)

    def multiply(
        self,
        activations: ActivationCodes,
        keep_sums: bool = False,
        start: NDArray[np.float32] | None = None,
    ) -> tuple[NDArray[np.float32], NDArray[np.int32] | None]:
        """y [R, O] float32, and the group sums [R, O, P] int32 if `keep_sums`.

        Activations with twice the layer's groups are in two terms, which meet the same weights.
        `start`: what the sums begin with instead of the bias, [O] or [R, O].
        """
        halves_RI = self._halves(activations)
        scales_RG = [values_of(activations.scale)]
        if self.layer.dual:
            scales_RG.insert(0, values_of(activations.scale_neg))
        rows, outputs = activations.codes.shape[0], self.layer.outputs
        begin = self._bias_O if start is None else torch.from_numpy(start)
        y_RO = begin.expand(rows, outputs).clone()
        groups = activations.scale.shape[1]
        terms, over = divmod(groups, self.layer.groups)
        if over or terms not in (1, 2):
            raise ValueError(
                f"activations have {groups} groups; the layer has {self.layer.groups}, each in one "
                "or two terms"
            )
        passes = len(self._sets) * groups * len(halves_RI)
        sums = np.empty((rows, outputs, passes), np.int32) if keep_sums else None
        step = max(1, _CHUNK_RESULTS // outputs)
        for first in range(0, rows, step):
            chunk = slice(first, first + step)
            acc = y_RO[chunk]
            product, factor = torch.empty_like(acc), torch.empty_like(acc)
            number = 0
            for (weight_OI, scales_GO), g in itertools.product(self._sets, range(groups)):
                columns, own = (slice(n * GROUP, (n + 1) * GROUP) for n in (g, g // terms))
                weight = weight_OI[:, own].T
                for half, scale in zip(halves_RI, scales_RG, strict=True):
                    # Integers below 2**24: exact in float32 whatever the order of summation.
                    torch.mm(half[chunk, columns], weight, out=product)
                    if sums is not None:
                        sums[chunk, :, number] = product.numpy()
                    # m * ws is exact (22 bits), so the product is rounded once. Product and sum
                    # are separate operations on purpose: a fused one would round once less.
                    torch.outer(scale[chunk, g], scales_GO[g // terms], out=factor)
                    product *= factor
                    acc += product
                    number += 1
        return y_RO.numpy(), sums

    def __call__(self, x: Tensor | NDArray[np.float32], keep_sums: bool = False) -> GoldenResult:
        patterns, activations = self.quantize(x)
        y, sums = self.multiply(activations, keep_sums)
        return GoldenResult(y, patterns, activations, sums)

    def _halves(self, activations: ActivationCodes) -> list[Tensor]:
        """Grid integers [R, I] of each pass, negative half first; zero where not in the pass."""
        grid = codec(self.layer.activation_format).grid(torch.from_numpy(activations.codes))
        return [grid.clamp_max(0), grid.clamp_min(0)] if self.layer.dual else [grid]


def linear(
    layer: QuantizedLinear, x: Tensor | NDArray[np.float32], keep_sums: bool = False
) -> GoldenResult:
    """Run one layer on float32 rows x [R, I]. For many calls keep a `GoldenLinear`."""
    return GoldenLinear(layer)(x, keep_sums)
