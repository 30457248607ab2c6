# SPDX-License-Identifier: Apache-2.0
"""The rounded weight of a layer as grid integers and scales, exactly, for files and exports."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lutvar.quant.methods.quantizers.fake import FakeQuantizer, Scales

from .layer import Layer


class GridWeight(NamedTuple):
    """Integers times scales; see `values`.

    Attributes:
        integers_OI: signed multiples of the grid step (int8 or int16). With a zero point,
            q - zero_point.
        scales: of the blocks, as `FakeQuantizer.scales` makes them.
    """

    integers_OI: Tensor
    scales: Scales


def grid_weight(layer: Layer) -> GridWeight | None:
    """Integers and scales that give `layer.rounded_OI` to the last bit, or None.

    None: the weight is float, or a step rounded it with scales that it did not leave in
    `weight_scales`.
    """
    rounded_OI, quantizer = layer.rounded_OI, layer.weight
    if quantizer is None or rounded_OI is None or quantizer.spec.exact_rule is not None:
        return None
    if layer.weight_scales is not None:
        return _try(quantizer, rounded_OI, layer.weight_scales)
    # The scales that steps usually round with, then those of a weight that kept its extremes.
    for weight_OI in (layer.weight_OI, rounded_OI):
        grid = _try(quantizer, rounded_OI, quantizer.scales(weight_OI))
        if grid is not None:
            return grid
    return None


def second_grid(layer: Layer) -> GridWeight | None:
    """The same of the second set of a weight in two terms; None for one term."""
    if layer.weight is None or layer.second_OI is None or layer.second_scales is None:
        return None
    return _try(layer.weight, layer.second_OI, layer.second_scales)


def on_grid(layer: Layer) -> bool:
    """Whether the weight is grid integers times known scales, in both terms if it has two."""
    second = layer.second_OI is None or second_grid(layer) is not None
    return second and grid_weight(layer) is not None


def _try(quantizer: FakeQuantizer, rounded_OI: Tensor, scales: Scales) -> GridWeight | None:
    scale = scales.positive
    blocks = quantizer.blocks(rounded_OI)
    if scales.negative is not None:
        scale = torch.where(blocks < 0, scales.negative, scales.positive)
    integers = torch.round(blocks / scale)
    if scales.zero_point is not None:
        integers = integers + scales.zero_point
    if not bool((integers.abs() <= 32767).all()):
        return None
    small = bool((integers >= -128).all() and (integers <= 127).all())
    kind = torch.int8 if small else torch.int16
    grid = GridWeight(integers.to(kind).reshape(rounded_OI.shape), scales)
    return grid if torch.equal(values(quantizer, grid), rounded_OI) else None


def values(quantizer: FakeQuantizer, weight: GridWeight) -> Tensor:
    """The weight [O, I] in float32."""
    integers, scales = quantizer.blocks(weight.integers_OI).float(), weight.scales
    if scales.zero_point is not None:
        integers = integers - scales.zero_point
    scale = scales.positive
    if scales.negative is not None:
        scale = torch.where(integers < 0, scales.negative, scales.positive)
    return (integers * scale).reshape(weight.integers_OI.shape)
