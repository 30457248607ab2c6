# SPDX-License-Identifier: Apache-2.0
"""Rotation of the values of each attention head, folded into two weights.

Source: QuaRot (arXiv:2404.00456), section 4 (stage 1c). Attention mixes tokens and not channels, so
rotating the value rows of qkv rotates the input of proj, whose columns take the rotation back.
Nothing is left to do at run time. It works in VAR because no norm lies between the two.
"""

from __future__ import annotations

from dataclasses import replace

from lutvar.quant.methods.layer import Block
from lutvar.quant.methods.operations import hadamard_matrix

from . import StepBase
from .value_layers import value_layers


class HeadRotation(StepBase):
    """Rotates values by diag(d) H / sqrt(head width).

    Attributes:
        seed: of the signs d; None for none.
    """

    seed: int | None = 42

    def apply(self, block: Block) -> None:
        if block.module is None:
            return
        qkv, proj = value_layers(block, self.step)
        width, heads = proj.weight_OI.shape[1], block.module.attn.heads
        head = width // heads
        matrix = hadamard_matrix(head, self.seed)
        weight = qkv.weight_OI.double()
        values = weight[2 * width :].view(heads, head, -1)
        weight[2 * width :] = (matrix.mT @ values).flatten(0, 1)
        qkv.weight_OI = weight.float()
        if qkv.bias_O is not None:
            bias = qkv.bias_O.double()
            bias[2 * width :] = (bias[2 * width :].view(heads, head) @ matrix).flatten()
            qkv.bias_O = bias.float()
        columns = proj.weight_OI.double().unflatten(1, (heads, head))
        proj.weight_OI = (columns @ matrix).flatten(1).float()
        proj.notes.append(f"{self.step}: input arrives rotated by heads of {head}")
        if block.data is not None:
            # Later steps must see what proj will see.
            x = block.data.inputs["proj"].unflatten(-1, (heads, head)) @ matrix.float()
            block.data = replace(block.data, inputs={**block.data.inputs, "proj": x.flatten(-2)})
