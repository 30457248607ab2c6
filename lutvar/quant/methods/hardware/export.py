# SPDX-License-Identifier: Apache-2.0
"""From the layers of a recipe to the transformer that the accelerator runs.

The codes are those that the recipe rounded to, not new ones; channel factors and shifts go into the
AdaLN vectors and the vectors behind GELU. What `hardware.HardwareReport.added` lists is quantized
here besides.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lutvar.contract.formats import NumberFormat
from lutvar.contract.quant_preset import GROUP
from lutvar.quant.methods.layers.grid import GridWeight, grid_weight, second_grid
from lutvar.quant.methods.layers.layer import Layer
from lutvar.quant.methods.layers.operations import channel_affine
from lutvar.quant.methods.recipes import files
from lutvar.quant.methods.recipes.quantized_var import QuantizedVar
from lutvar.quant.methods.recipes.recipe import Recipe
from lutvar.quant.ptq.linear import PrequantizedWeight
from lutvar.quant.ptq.transformer import QuantizedTransformer, quantize_transformer
from lutvar.quant.ptq.weights import QuantizationError
from lutvar.quant.var import Var
from lutvar.quant.var.sites import LinearSite

from .array_rules import KvFormat
from .report import ARRAY_SITES, hardware


def export(
    quantized: QuantizedVar, var: Var, kv_format: KvFormat | None = None
) -> QuantizedTransformer:
    """The transformer at code level.

    Args:
        quantized: layers made for `var`.
        var: the float model.
        kv_format: format of the attention records; default what the recipe says, else E2M3.

    Raises:
        QuantizationError: a part of the recipe that needs other hardware; the text names it. A
            recipe that only lacks a shipped configuration is exported, with its own preset.
    """
    return _export(quantized, var, kv_format, None, prequantized_weight)


def export_file(
    path: str | Path, var: Var, kv_format: KvFormat | None = None
) -> tuple[Recipe, QuantizedTransformer]:
    """The recipe of a file, and its transformer at code level.

    The same as `export` of the loaded file. Codes come from the integers in the file, so that no
    layer's weight exists in float: a large model takes a quarter of the memory.

    Raises:
        QuantizedFileError: the file is not one of this model's.
        QuantizationError: as `export`.
    """
    content = files.read(path, files.fingerprint(var))
    attention = files.restored_attention(content, var)
    described = QuantizedVar(content.recipe, content.unpacked(weights=False), attention)
    transformer = _export(
        described, var, kv_format, content.on_grid(),
        lambda layer: _prequantized(
            layer, content.grid(layer.site), content.grid(layer.site, second=True)
        ),
    )  # fmt: skip
    return content.recipe, transformer


def _export(
    quantized: QuantizedVar,
    var: Var,
    kv_format: KvFormat | None,
    on_grid: Mapping[LinearSite, bool] | None,
    weight_of: Callable[[Layer], PrequantizedWeight],
) -> QuantizedTransformer:
    report = hardware(quantized, var, on_grid)
    if report.config is None or report.missing:
        raise QuantizationError(
            f"recipe {report.recipe} does not run on the accelerator: " + "; ".join(report.missing)
        )
    layers = {s: layer for s, layer in quantized.layers.items() if s.name in ARRAY_SITES}
    prequantized: dict[LinearSite, PrequantizedWeight] = {}
    factors: dict[LinearSite, NDArray[np.float32]] = {}
    shifts: dict[LinearSite, NDArray[np.float32]] = {}
    for site, layer in layers.items():
        prequantized[site] = weight_of(layer)
        scale_I, shift_I = channel_affine(layer)
        if scale_I is not None:
            factors[site] = scale_I.numpy()
        if shift_I is not None:
            shifts[site] = shift_I.numpy()
    return quantize_transformer(
        var, report.config, kv_format or report.kv_format, factors, False, prequantized, shifts
    )


def prequantized_weight(layer: Layer) -> PrequantizedWeight:
    """Codes and scales of a finished layer whose quantizer has groups of 128.

    Raises:
        QuantizationError: the weight is not on the grid of its scales.
    """
    return _prequantized(layer, grid_weight(layer), second_grid(layer))


def _prequantized(
    layer: Layer, grid: GridWeight | None, second: GridWeight | None
) -> PrequantizedWeight:
    weights, inputs = layer.terms
    if grid is None or (weights == 2 and second is None):
        raise QuantizationError(f"{layer.site}: weights are not grid integers times known scales")
    more = None if second is None else _coded(layer, second)
    return PrequantizedWeight(*_coded(layer, grid), layer.bias_O, more, inputs)


def _coded(layer: Layer, grid: GridWeight) -> tuple[NDArray[np.uint8], Tensor]:
    """Codes [O, I] and absolute maxima [O, I / 128] of one set."""
    quantizer = layer.weight
    assert quantizer is not None
    codes_OI = codes_of(grid, quantizer.format)
    if grid.scales.amax is None:
        amax_OG = grid.scales.positive.squeeze(-1).double() * quantizer.format.scale_top()
    else:
        amax_OG = grid.scales.amax.squeeze(-1).double()
    # A group of zeros has no scale; what the quantizer puts there must not set the exponent.
    used_OG = grid.integers_OI.unflatten(-1, (-1, GROUP)).ne(0).any(-1)
    return codes_OI.numpy(), torch.where(used_OG, amax_OG, 0.0)


def codes_of(weight: GridWeight, fmt: NumberFormat) -> Tensor:
    """uint8 codes [O, I] of grid integers in a single-scale format."""
    top = max(fmt.positive.top, fmt.negative.top)
    table = torch.zeros(2 * top + 1, dtype=torch.uint8)
    for negative in (False, True):
        for magnitude in fmt.half(negative).levels:
            index = top - magnitude if negative else top + magnitude
            table[index] = fmt.encode_int(magnitude, negative)
    return table[weight.integers_OI.long() + top]
