# SPDX-License-Identifier: Apache-2.0
"""Hadamard transform of input and weight, group-wise or over the full width.

Sources: FPQVAR (arXiv:2505.16335), blocks of 128 with one sign vector; QuaRot (arXiv:2404.00456),
full width.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from lutvar.contract.names import Seed
from lutvar.quant.methods.layers.hadamards import full_rotation, rotate_fully
from lutvar.quant.methods.layers.layer import Block
from lutvar.quant.methods.layers.operations import hadamard_matrix, rotate

from .base import StepBase, register_step


@register_step("hadamard")
class Hadamard(StepBase):
    """Rotates each block of `size` channels by diag(d) H / sqrt(size).

    Attributes:
        size: a power of two that divides the linear's inputs, or "full" for all of them.
        seed: of the signs d; None for none.
    """

    size: int | Literal["full"] = 128
    seed: Seed | None = 42

    def matrix(self, inputs: int) -> Tensor:
        """The matrix of a block of channels, or of all `inputs` ones, float64."""
        if self.size == "full":
            return full_rotation(inputs, self.seed)(torch.eye(inputs, dtype=torch.float64))
        return hadamard_matrix(self.size, self.seed)

    def apply(self, block: Block) -> None:
        for layer in self.layers_in(block):
            if self.size == "full":
                rotate_fully(layer, self.seed)
            else:
                rotate(layer, self.matrix(layer.weight_OI.shape[1]), self.seed)
