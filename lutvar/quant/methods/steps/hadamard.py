# SPDX-License-Identifier: Apache-2.0
"""Group-wise Hadamard transform of input and weight.

Sources: FPQVAR (arXiv:2505.16335), blocks of 128 with one sign vector; QuaRot (arXiv:2404.00456).
"""

from __future__ import annotations

from lutvar.quant.methods.layer import Block
from lutvar.quant.methods.operations import hadamard_matrix, rotate

from . import StepBase


class Hadamard(StepBase):
    """Rotates each block of `size` channels by diag(d) H / sqrt(size).

    Attributes:
        size: a power of two that divides the linear's inputs.
        seed: of the signs d; None for none.
    """

    size: int = 128
    seed: int | None = 42

    def apply(self, block: Block) -> None:
        for layer in self.chosen(block):
            rotate(layer, hadamard_matrix(self.size, self.seed), self.seed)
