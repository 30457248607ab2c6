# SPDX-License-Identifier: Apache-2.0
"""Rounding column by column, each column's error compensated in the columns that follow.

Source: GPTQ (arXiv:2210.17323), algorithm 1, on the grid of the layer's own quantizer, whose group
scales are fixed before. The Hessian is that of the quantized input, as in QuaRot's use of it
(arXiv:2404.00456). With `target: output` the float weight is first replaced by the one that best
gives the float output from the quantized input, as in GPTAQ (arXiv:2504.02692).
"""

from __future__ import annotations

from functools import partial
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from lutvar.quant.methods.calibration.moments import Moments, Weighting, layer_moments
from lutvar.quant.methods.layers.layer import Block, Layer
from lutvar.quant.methods.quantizers.fake import FakeQuantizer, Scales
from lutvar.quant.methods.quantizers.spec import Sharing

from .base import StepBase, register_step


@register_step("gptq")
class Gptq(StepBase):
    """Second-order rounding.

    Attributes:
        damping: added to the Hessian's diagonal, relative to its mean.
        chunk: columns whose corrections are applied to the rest at once.
        order: "index", or "activation" for columns by falling mean square of their input.
        target: "weight" minimises |q R^T - q W^T|, "output" |q R^T - x W^T|.
        weighting: whether tokens or scale steps count the same.
    """

    reads_data: ClassVar[bool] = True

    damping: float = Field(default=0.01, gt=0)
    chunk: int = Field(default=128, ge=1)
    order: Literal["index", "activation"] = "index"
    target: Literal["weight", "output"] = "weight"
    weighting: Weighting = "token"

    @torch.no_grad()
    def apply(self, block: Block) -> None:
        for layer in self.layers_in(block):
            if layer.weight is None:
                continue
            moments = layer_moments(block, layer, self.step, self.weighting)
            before = moments.loss(layer.nearest(), layer.weight_OI)
            layer.aim_OI, layer.rounded_OI = self._round(layer, moments)
            after = moments.loss(layer.rounded_OI, layer.weight_OI)
            layer.notes.append(f"{self.step}: output error {before:.4g} to {after:.4g}")

    def _round(self, layer: Layer, moments: Moments) -> tuple[Tensor, Tensor]:
        """The weight that is aimed at, and the one that was rounded to the grid, [O, I] both."""
        quantizer, scales = layer.grid()
        hessian_II = moments.quantized_II.double()
        damping = self.damping * float(hessian_II.diagonal().mean()) or 1.0
        hessian_II.diagonal().add_(damping)
        weight_OI = layer.weight_OI.double()
        if self.target == "output":
            target_OI = weight_OI @ moments.mixed_II.double().mT + damping * weight_OI
            weight_OI = torch.linalg.solve(hessian_II, target_OI.mT).mT
        aim_OI = weight_OI.float()
        columns = torch.arange(weight_OI.shape[1])
        if self.order == "activation":
            columns = torch.argsort(hessian_II.diagonal(), descending=True, stable=True)
            hessian_II = hessian_II[columns][:, columns]
        inverse_II = torch.cholesky_inverse(torch.linalg.cholesky(hessian_II))
        factor_II = torch.linalg.cholesky(inverse_II, upper=True).float()
        rounded_OI = _sweep(
            weight_OI[:, columns].float(),
            factor_II,
            columns.tolist(),
            quantizer,
            scales,
            self.chunk,
        )
        return aim_OI, rounded_OI[:, torch.argsort(columns)].contiguous()


def _sweep(
    weight_OI: Tensor,
    factor_II: Tensor,
    columns: list[int],
    quantizer: FakeQuantizer,
    scales: Scales,
    chunk: int,
) -> Tensor:
    """Round the columns in turn; `columns` names each one's place, which decides its scale."""
    size = quantizer.spec.group
    single = FakeQuantizer(quantizer.spec.model_copy(update={"group": Sharing.ROW}))
    rest_OI, rounded_OI = weight_OI.clone(), torch.empty_like(weight_OI)
    for start in range(0, len(columns), chunk):
        stop = min(start + chunk, len(columns))
        errors = torch.empty(len(weight_OI), stop - start, dtype=torch.float32)
        for i in range(start, stop):
            which = columns[i] // size if isinstance(size, int) else 0
            group_scales = scales.each(partial(_of_group, which=which))
            column_O1 = rest_OI[:, i : i + 1]
            rounded_OI[:, i : i + 1] = single.apply(column_O1, group_scales)
            error_O1 = (column_O1 - rounded_OI[:, i : i + 1]) / factor_II[i, i]
            rest_OI[:, i:stop] -= error_O1 * factor_II[i, i:stop]
            errors[:, i - start] = error_O1[:, 0]
        rest_OI[:, stop:] -= errors @ factor_II[start:stop, stop:]
    return rounded_OI


def _of_group(scale: Tensor, which: int) -> Tensor:
    """Scale of one column, [O, 1, 1] ([1, 1] of a whole tensor as it is)."""
    return scale if scale.dim() == 2 else scale[:, which : which + 1]
