# SPDX-License-Identifier: Apache-2.0
"""The two layers between which the values of a head may get another basis."""

from dataclasses import replace

import torch
from torch import Tensor

from lutvar.quant.methods.layers.layer import Block, Layer


def value_layers(block: Block, step: str) -> tuple[Layer, Layer]:
    """qkv and proj of a block, both still to be rounded.

    Raises:
        ValueError: the recipe lacks one of them, or an earlier step changed proj's input or rounded
            a weight; the text names the step.
    """
    missing = [name for name in ("qkv", "proj") if name not in block.layers]
    if missing:
        raise ValueError(
            f"{step}: block {block.index}: the recipe does not name "
            f"{' and '.join(missing)}; qkv and proj are changed together "
            "(an entry without quantizers is enough)"
        )
    qkv, proj = block.layers["qkv"], block.layers["proj"]
    if proj.operations:
        raise ValueError(f"{step}: it must come before steps that change proj's input")
    for layer in (qkv, proj):
        layer.need_unrounded(step)
    return qkv, proj


def fold_values(block: Block, map_Hcc: Tensor, inverse_Hcc: Tensor) -> None:
    """Values of each head times a map, columns of proj times its inverse, float64 [H, c, c] each.

    The calibration data become what proj will see.
    """
    qkv, proj = block.layers["qkv"], block.layers["proj"]
    heads, head = map_Hcc.shape[:2]
    first = 2 * heads * head
    weight_OI = qkv.weight_OI.double()
    values_HcI = weight_OI[first:].view(heads, head, -1)
    weight_OI[first:] = (map_Hcc @ values_HcI).flatten(0, 1)
    qkv.weight_OI = weight_OI.float()
    if qkv.bias_O is not None:
        bias_O = qkv.bias_O.double()
        bias_O[first:] = (map_Hcc @ bias_O[first:].view(heads, head, 1)).flatten()
        qkv.bias_O = bias_O.float()
    columns_OHc = proj.weight_OI.double().unflatten(1, (heads, head))
    proj.weight_OI = torch.einsum("ohc,hcd->ohd", columns_OHc, inverse_Hcc).flatten(1).float()
    if block.data is not None:
        x_BLHc = block.data.inputs["proj"].unflatten(-1, (heads, head)).double()
        x_BLI = torch.einsum("hdc,blhc->blhd", map_Hcc, x_BLHc).flatten(2).float()
        block.data = replace(block.data, inputs={**block.data.inputs, "proj": x_BLI})
