# SPDX-License-Identifier: Apache-2.0
"""Convolutions as parts that the array multiplies: unrolled weights, offline (contract, 14).

The results of `span` pixels are one row, so that rows are multiples of 128 wide: the weights of a
part are the convolution's once for each of these pixels, each at its own place in the window.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from lutvar.contract.decoder import Conv, stored_channels
from lutvar.contract.quant_preset import GROUP, QuantConfig
from lutvar.contract.terms import ONE_TERM, Terms
from lutvar.quant.ptq.linear import QuantizedLinear, rounded_linear
from lutvar.quant.ptq.weights import round_weight
from lutvar.quant.var.sites import LinearSite


class Tap(NamedTuple):
    """Weights [outputs, inputs] of one pixel of a window for one pixel of the row's results."""

    result: int
    pixel: int
    weight_OI: Tensor


def unrolled(taps: Sequence[Tap], columns: int, groups: int) -> Tensor:
    """The matrix of a part, [columns, groups * 128] float32, zero where no tap is."""
    matrix = torch.zeros(columns, groups * GROUP)
    for tap in taps:
        outputs, inputs = tap.weight_OI.shape
        row = tap.result * stored_channels(outputs)
        column = tap.pixel * stored_channels(inputs)
        matrix[row : row + outputs, column : column + inputs] = tap.weight_OI
    return matrix


def part_matrices(conv: Conv, weight_OIyx: Tensor) -> list[Tensor]:
    """Matrices of the parts of a convolution, by the index that `Conv.parts` gives.

    Those of a doubled map are sums of the lines, and of the columns, that meet the same pixel:
    taken in float64, rounded once.

    Args:
        conv: which one.
        weight_OIyx: [O, I, taps, taps].
    """
    weight = weight_OIyx.detach().double()
    lines = [weight[:, :, y] for y in range(conv.taps)]
    if not conv.double:
        return [_matrix(conv, line) for line in lines]
    return [_doubled(conv, line) for lines_of_result in _halves(lines) for line in lines_of_result]


def _halves(lines: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """Weights of two pixels of the small map for the first and for the second of two results."""
    return [lines[0], lines[1] + lines[2]], [lines[0] + lines[1], lines[2]]


def _matrix(conv: Conv, line_OIx: Tensor) -> Tensor:
    taps = [
        Tap(j, j + x, line_OIx[:, :, x].float()) for j in range(conv.span) for x in range(conv.taps)
    ]
    return unrolled(taps, conv.columns, conv.groups)


def _doubled(conv: Conv, line_OIx: Tensor) -> Tensor:
    left, right = _halves([line_OIx[:, :, x] for x in range(3)])
    taps = [
        Tap(2 * j + second, j + second + x, weights.float())
        for j in range(conv.span)
        for second, pair in enumerate((left, right))
        for x, weights in enumerate(pair)
    ]
    return unrolled(taps, conv.columns, conv.groups)


@dataclass(frozen=True, eq=False)
class ConvWeights:
    """A convolution ready for the array.

    Attributes:
        conv: sizes and maps.
        parts: by the index that `Conv.parts` gives; the bias is in the first of each line.
        shortcut: the part that comes last, or None.
    """

    conv: Conv
    parts: tuple[QuantizedLinear, ...]
    shortcut: QuantizedLinear | None

    @property
    def layers(self) -> tuple[QuantizedLinear, ...]:
        """All parts."""
        return self.parts if self.shortcut is None else (*self.parts, self.shortcut)


def quantize_conv(
    conv: Conv,
    module: nn.Conv2d,
    shortcut: nn.Conv2d | None,
    preset: QuantConfig,
    terms: Terms = ONE_TERM,
    rotate: bool = False,
) -> ConvWeights:
    """Quantize one convolution in the preset's formats with one scale a group.

    Args:
        conv: sizes.
        module, shortcut: weights and biases; the biases are added in float32.
        preset: formats, ties, sign vector.
        terms: codes whose sum weights and inputs are.
        rotate: windows pass the Hadamard transform.

    Raises:
        QuantizationError: a weight or bias that the device cannot take; names the layer.
    """
    bias = cast(Tensor, module.bias).detach().float()
    if shortcut is not None:
        bias = bias + cast(Tensor, shortcut.bias).detach().float()
    stored = torch.zeros(stored_channels(conv.outputs))
    stored[: conv.outputs] = bias
    bias_N = stored.repeat(conv.columns // len(stored))

    def layer(name: str, matrix: Tensor, bias: Tensor | None) -> QuantizedLinear:
        return _layer(name, matrix, bias, preset, terms, rotate)

    matrices = part_matrices(conv, module.weight)
    first = {line[0][1] for line in conv.parts}
    parts = tuple(
        layer(f"{conv.name}, part {i}", matrix, bias_N if i in first else None)
        for i, matrix in enumerate(matrices)
    )
    if shortcut is None:
        return ConvWeights(conv, parts, None)
    weight = shortcut.weight.detach().float()[:, :, 0, 0]
    taps = [Tap(j, j, weight) for j in range(conv.span)]
    matrix = unrolled(taps, conv.columns, conv.shortcut_groups)
    return ConvWeights(conv, parts, layer(conv.shortcut_name, matrix, None))


def _layer(
    name: str,
    matrix: Tensor,
    bias: Tensor | None,
    preset: QuantConfig,
    terms: Terms,
    rotate: bool,
) -> QuantizedLinear:
    site = cast(LinearSite, name)  # of a site only its name is used
    weights, inputs = preset.weight_format, preset.plain_format
    rounded = round_weight(
        site, matrix, weights, preset.hadamard_seed if rotate else None, terms.weights
    )
    return rounded_linear(site, rounded, bias, preset, inputs, rotate, terms.inputs)
