# SPDX-License-Identifier: Apache-2.0
"""Rounding to nearest as the accelerator's arithmetic defines it.

Source: docs/arithmetic.md, section 6. Presets of the accelerator become recipes with this step
(`recipes.preset`): what is exported afterwards are the codes and scales of
`ptq.quantize_transformer`, to the last bit.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lutvar.contract.names import Seed
from lutvar.contract.quant_preset import GROUP
from lutvar.quant.formats.codec import codec
from lutvar.quant.methods.layers.grid import GridWeight, values
from lutvar.quant.methods.layers.layer import Block, Layer
from lutvar.quant.methods.layers.operations import hadamard_matrix, rotate
from lutvar.quant.methods.quantizers.fake import FakeQuantizer, Scales
from lutvar.quant.methods.quantizers.spec import QuantizerSpec
from lutvar.quant.ptq.weights import (
    checked_bias,
    fold_scales,
    folded_constant,
    need_groups,
    round_weight,
)
from lutvar.quant.var.sites import SiteName

from .base import StepBase, register_step


@register_step("array-rounding")
class ArrayRounding(StepBase):
    """Rotates weights where asked and rounds them; every comparison is exact, ties go to even.

    Other steps round in float32, where a value within a rounding error of a tie may fall on the
    other side.

    Attributes:
        rotate: linears whose input passes the Hadamard transform of 128 first.
        seed: of its signs.
    """

    rotate: tuple[SiteName, ...] = ()
    seed: Seed = 42

    def apply(self, block: Block) -> None:
        for layer in self.layers_in(block):
            self._round(layer)

    def _round(self, layer: Layer) -> None:
        """Raises ValueError for a linear that the array cannot multiply in these formats."""
        layer.need_unrounded(self.step)
        quantizer, activation = layer.weight, layer.activation
        if quantizer is None or type(activation) is not FakeQuantizer:
            raise ValueError(f"{layer.site}: {self.step} needs formats of weight and input")
        fmt = quantizer.format
        if fmt.dual or quantizer.spec != QuantizerSpec(format=fmt.name):
            raise ValueError(
                f"{layer.site}: weight {quantizer.spec}; {self.step} rounds to formats with one "
                f"scale for {GROUP} values, the absolute maximum; leave all but the format out"
            )
        need_groups(str(layer.site), layer.weight_OI.shape[1])
        rotated = layer.site.name in self.rotate
        sets = round_weight(
            layer.site, layer.weight_OI, fmt, self.seed if rotated else None, layer.terms[0]
        )
        rounded: list[tuple[Tensor, Scales]] = []
        for codes_OI, amax_OG in sets:
            # Only for its errors: what the array could not hold is named here, not when packed.
            fold_scales(layer.site, amax_OG * folded_constant(activation.format, fmt, rotated))
            amax_OG1 = amax_OG.float().unsqueeze(-1)
            scales_OG1 = torch.where(amax_OG1 == 0, 1.0, amax_OG1 / fmt.scale_top())
            scales = Scales(scales_OG1, amax=amax_OG1)
            integers_OI = codec(fmt).grid(torch.from_numpy(codes_OI), torch.float32)
            rounded.append((values(quantizer, GridWeight(integers_OI, scales)), scales))
        checked_bias(layer.site, layer.bias_O, len(layer.weight_OI))
        if rotated:
            rotate(layer, hadamard_matrix(GROUP, self.seed), self.seed)
        layer.rounded_OI, layer.weight_scales = rounded[0]
        if len(rounded) == 2:
            layer.second_OI, layer.second_scales = rounded[1]
