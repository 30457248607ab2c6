# SPDX-License-Identifier: Apache-2.0
"""Rotation of queries and keys of each attention head, folded into one weight.

Sources: Shift-and-Sum (arXiv:2606.16131) and its released code give every key channel a range of
its own over all cached tokens; QuaRot (arXiv:2404.00456) rotates queries and keys behind the rotary
positions. VAR has no such positions: a query and a key meet in one product, and only their lengths
are divided out. So any orthogonal matrix of a head may act on both, and it folds into the rows of
qkv. It spreads a channel that is wider than the others over all of them, which is what separate
ranges are for; a factor for each channel would change the lengths and is not free.
"""

from __future__ import annotations

from lutvar.contract.names import Seed
from lutvar.quant.methods.layers.layer import Block
from lutvar.quant.methods.layers.operations import hadamard_matrix

from .base import StepBase, register_step


@register_step("key-rotation")
class KeyRotation(StepBase):
    """Rotates queries and keys by diag(d) H / sqrt(head width).

    Attributes:
        seed: of the signs d; None for none.
    """

    seed: Seed | None = 42

    def apply(self, block: Block) -> None:
        if block.heads is None:
            return
        qkv = block.layers.get("qkv")
        if qkv is None:
            raise ValueError(
                f"{self.step}: block {block.index}: the recipe does not name qkv "
                "(an entry without quantizers is enough)"
            )
        qkv.need_unrounded(self.step)
        outputs = qkv.weight_OI.shape[0] // 3
        head = outputs // block.heads
        matrix_cc = hadamard_matrix(head, self.seed).mT
        for first in (0, outputs):
            rows = slice(first, first + outputs)
            weight_OI = qkv.weight_OI.double()
            rotated_HcI = matrix_cc @ weight_OI[rows].view(block.heads, head, -1)
            weight_OI[rows] = rotated_HcI.flatten(0, 1)
            qkv.weight_OI = weight_OI.float()
            if qkv.bias_O is not None:
                bias_O = qkv.bias_O.double()
                rotated_Hc = bias_O[rows].view(block.heads, head) @ matrix_cc.mT
                bias_O[rows] = rotated_Hc.flatten()
                qkv.bias_O = bias_O.float()
        qkv.notes.append(f"{self.step}: queries and keys rotated by heads of {head}")
