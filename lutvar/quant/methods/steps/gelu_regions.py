# SPDX-License-Identifier: Apache-2.0
"""Two uniform regions for the output of GELU, with scales that differ by a power of two.

Source: MPTQ-ViT (arXiv:2401.14895): half of the codes go to negative values, half to the others;
the ratio of the two scales is a power of two, so that a shift aligns the products, and which power
it is follows from the data. Here it is the one with the smallest error of the linear's output.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from lutvar.quant.methods.calibration.fixed_range import (
    PERCENTILES,
    calibration_rows,
    input_bits,
    output_error,
    tails,
)
from lutvar.quant.methods.layers.layer import Block, Layer
from lutvar.quant.var.sites import SiteName

from .base import StepBase, register_step


@dataclass(frozen=True)
class SignRegions:
    """Codes -2**(b-1)..-1 times `scale * 2**-shift`, codes 0..2**(b-1)-1 times `scale`.

    Attributes:
        scale: difference of neighbouring values from 0 up.
        shift: how many times finer the negative values are, as a power of two.
        bits: of a code, as a float for reports.
    """

    scale: float
    shift: int
    bits: float

    def __call__(self, x: Tensor, scale_index: int = 0) -> Tensor:
        """Fake-quantize [..., I]; the scale step does not matter."""
        half, fine = 2 ** (int(self.bits) - 1), self.scale * 2.0**-self.shift
        negative = torch.round(x / fine).clamp(-half, 0) * fine
        positive = torch.round(x / self.scale).clamp(0, half - 1) * self.scale
        return torch.where(x < 0, negative, positive)


@register_step("gelu-regions")
class GeluRegions(StepBase):
    """Replaces the input quantizer by `SignRegions` of the same bits.

    Attributes:
        shifts: powers of two that are tried.
        percentiles: upper ends of the positive region that are tried, and the maximum.
        rows: calibration tokens that are looked at.
    """

    reads_data: ClassVar[bool] = True

    sites: tuple[SiteName, ...] | None = ("fc2",)
    shifts: tuple[int, ...] = (0, 1, 2, 3, 4, 5, 6, 7, 8)
    percentiles: tuple[float, ...] = PERCENTILES
    rows: int = Field(default=2048, ge=2)

    def apply(self, block: Block) -> None:
        for layer in self.layers_in(block):
            bits = input_bits(layer, self.step)
            x_NI = calibration_rows(block, layer, self.step, self.rows)
            layer.activation = self._best(layer, x_NI, bits)

    def _best(self, layer: Layer, x_NI: Tensor, bits: int) -> SignRegions:
        _, high = tails(x_NI.reshape(-1, 1), self.percentiles)
        tops = sorted({float(x_NI.max()), *high.flatten().tolist()})
        best: tuple[float, SignRegions] | None = None
        for top in tops:
            scale = max(top, 0.0) / (2 ** (bits - 1) - 1) or 1.0
            for shift in self.shifts:
                candidate = SignRegions(scale, shift, float(bits))
                layer.activation = candidate
                error = output_error(layer, x_NI)
                if best is None or error < best[0]:
                    best = error, candidate
        assert best is not None
        return best[1]
