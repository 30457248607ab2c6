# SPDX-License-Identifier: Apache-2.0
"""A low-rank branch in FP16 takes the weight's largest directions; only the rest is quantized.

Source: SVDQuant (arXiv:2411.05007), section 4.2, and its released code's alternation between the
branch and the quantized rest. The outliers of the input go to the weight before, by a step
`smoothquant`.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from lutvar.quant.methods.calibration.moments import Moments, Weighting, layer_moments
from lutvar.quant.methods.layers.layer import Block, Layer

from .base import StepBase, register_step


@register_step("svdquant")
class SvdQuant(StepBase):
    """Splits W into up @ down (rank) and a rest R: y = x (up down)^T + Q(x) Q(R)^T.

    Attributes:
        rank: of the branch.
        iterations: decompositions of W, then of W - Q(R); the one with the least output error
            stays.
        weighting: whether tokens or scale steps count the same.
    """

    reads_data: ClassVar[bool] = True

    rank: int = Field(default=32, ge=1)
    iterations: int = Field(default=10, ge=1)
    weighting: Weighting = "token"

    @torch.no_grad()
    def apply(self, block: Block) -> None:
        for layer in self.layers_in(block):
            if layer.weight is None:
                continue
            if self.rank >= min(layer.weight_OI.shape):
                raise ValueError(
                    f"{self.step}: {layer.site}: rank {self.rank} of a weight of "
                    f"{tuple(layer.weight_OI.shape)}; it must be below {min(layer.weight_OI.shape)}"
                )
            layer.need_unrounded(self.step)
            self._split(layer, layer_moments(block, layer, self.step, self.weighting))

    def _split(self, layer: Layer, moments: Moments) -> None:
        whole_OI, rounded_OI = layer.weight_OI, torch.zeros_like(layer.weight_OI)
        before = moments.loss(layer.nearest(), whole_OI)
        min_error, best = float("inf"), (layer.low_rank, whole_OI)
        for _ in range(self.iterations):
            down_RI, up_OR = factors = largest_part(whole_OI - rounded_OI, self.rank)
            layer.weight_OI = whole_OI - up_OR @ down_RI
            rounded_OI = layer.nearest()
            error = moments.loss(rounded_OI, layer.weight_OI)
            if error < min_error:
                min_error, best = error, (factors, layer.weight_OI)
        layer.low_rank, layer.weight_OI = best
        layer.notes.append(f"{self.step}: output error {before:.4g} to {min_error:.4g}")


def largest_part(weight_OI: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """(down [R, I], up [O, R]): best approximation of this rank, both rounded to FP16.

    By the eigenvectors of the smaller Gram matrix, which is much faster than a whole decomposition.
    """
    weight = weight_OI.double()
    wide = weight.shape[0] <= weight.shape[1]
    gram = weight @ weight.mT if wide else weight.mT @ weight
    basis = torch.linalg.eigh(gram).eigenvectors[:, -rank:]
    down, up = (basis.mT @ weight, basis) if wide else (basis.mT, weight @ basis)
    # Equal norms keep both clear of the ends of FP16.
    size_R = (down.norm(dim=1) / up.norm(dim=0).clamp_min(1e-30)).sqrt().clamp_min(1e-6)
    return (down / size_R.unsqueeze(1)).half().float(), (up * size_R).half().float()
