# SPDX-License-Identifier: Apache-2.0
"""Rotation of the values of each attention head, folded into two weights.

Source: QuaRot (arXiv:2404.00456), section 4 (stage 1c). Attention mixes tokens and not channels, so
rotating the value rows of qkv rotates the input of proj, whose columns take the rotation back.
Nothing is left to do at run time. It works in VAR because no norm lies between the two.
"""

from __future__ import annotations

from lutvar.contract.names import Seed
from lutvar.quant.methods.layers.layer import Block
from lutvar.quant.methods.layers.operations import hadamard_matrix
from lutvar.quant.methods.layers.value_layers import fold_values, value_layers

from .base import StepBase, register_step


@register_step("head-rotation")
class HeadRotation(StepBase):
    """Rotates values by diag(d) H / sqrt(head width).

    Attributes:
        seed: of the signs d; None for none.
    """

    seed: Seed | None = 42

    def apply(self, block: Block) -> None:
        if block.heads is None:
            return
        _, proj = value_layers(block, self.step)
        heads = block.heads
        head = proj.weight_OI.shape[1] // heads
        matrices_Hcc = hadamard_matrix(head, self.seed).expand(heads, -1, -1)
        fold_values(block, matrices_Hcc.mT, matrices_Hcc)
        proj.notes.append(f"{self.step}: input arrives rotated by heads of {head}")
