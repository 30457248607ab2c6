# SPDX-License-Identifier: Apache-2.0
"""A logarithm of searched base for the input of fc2, and ranges searched by output error.

Source: AdaLog (arXiv:2407.12951): section 3.2 the quantizer in table form with the shift .16997
for post-GELU values, section 3.3 the search (FPCS), which alternates between weight and input.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from lutvar.quant.methods.calibration.fixed_range import (
    PERCENTILES,
    FixedRange,
    calibrated_range,
    calibration_rows,
    input_bits,
    tails,
)
from lutvar.quant.methods.layers.layer import Block, Layer
from lutvar.quant.methods.layers.search import progressive
from lutvar.quant.methods.quantizers.fake import FakeQuantizer, Scales
from lutvar.quant.methods.quantizers.logarithmic import BASE, GELU_SHIFT, LogTable, safe_log2
from lutvar.quant.methods.quantizers.spec import Sharing
from lutvar.quant.var.sites import SiteName

from .base import StepBase, register_step

#: Smallest and largest q that the paper tries.
Q_RANGE = (10, 137)


@dataclass(frozen=True)
class ShiftedLog:
    """`table(x + shift) - shift`.

    Taking the shift off again is a constant of the output, `shift` times the row sums of the
    weight as it is used, so it folds into the bias.
    """

    table: LogTable
    shift: float
    bits: float

    def __call__(self, x: Tensor, scale_index: int = 0) -> Tensor:
        return self.table(x + self.shift).sub_(self.shift)


@register_step("adalog")
class AdaLog(StepBase):
    """Searches ranges of weight and input; the input of `log_sites` becomes logarithmic.

    Other linears keep the `FixedRange` that an earlier step gave them, or get one from
    percentiles. The paper takes 128 candidates, 6 steps and 3 rounds.

    Attributes:
        log_sites: linears whose input is a GELU's output.
        candidates: pairs tried at once.
        steps: refinements of a search.
        rounds: alternations between weight and input.
        rows: calibration tokens that the output error is taken over.
    """

    reads_data: ClassVar[bool] = True

    log_sites: tuple[SiteName, ...] = ("fc2",)
    candidates: int = Field(default=24, ge=8)
    steps: int = Field(default=2, ge=0)
    rounds: int = Field(default=1, ge=1)
    rows: int = Field(default=512, ge=16)

    def apply(self, block: Block) -> None:
        for layer in self.layers_in(block):
            bits = input_bits(layer, self.step)
            x_NI = calibration_rows(block, layer, self.step, self.rows)
            exact_NO = x_NI @ layer.weight_OI.T
            if layer.site.name in self.log_sites:
                lowest = float(x_NI.min())
                if lowest < -GELU_SHIFT - 1e-4:
                    raise ValueError(
                        f"step adalog: input of {layer.site} reaches {lowest:g}; a logarithm "
                        f"needs values from -{GELU_SHIFT:.5f}, as GELU makes them: take it out "
                        "of log_sites"
                    )
                top = float(x_NI.max()) + GELU_SHIFT
                layer.activation = ShiftedLog(
                    LogTable("adalog", bits, BASE, top), GELU_SHIFT, float(bits)
                )
            elif not isinstance(layer.activation, FixedRange):
                layer.activation = calibrated_range(x_NI, bits, False, PERCENTILES)
            for _ in range(self.rounds):
                self._search_input(layer, x_NI, exact_NO)
                self._search_weight(layer, x_NI)

    def _search_input(self, layer: Layer, x_NI: Tensor, exact_NO: Tensor) -> None:
        used_OI, activation = layer.rounded_OI, layer.activation
        if used_OI is None:
            used_OI = layer.weight_OI if layer.weight is None else layer.weight(layer.weight_OI)
        if isinstance(activation, ShiftedLog):
            layer.activation = self._best_log(activation, x_NI, exact_NO, used_OI)
        elif isinstance(activation, FixedRange):
            layer.activation = self._best_range(activation, x_NI, exact_NO, used_OI)

    def _best_log(
        self, now: ShiftedLog, x_NI: Tensor, exact_NO: Tensor, used_OI: Tensor
    ) -> ShiftedLog:
        bits, (first, last) = int(now.bits), Q_RANGE
        positive = x_NI[x_NI > 0].unsqueeze(1)
        low = float(tails(positive, (0.9,))[1]) + GELU_SHIFT if len(positive) else GELU_SHIFT
        top = float(x_NI.max()) + GELU_SHIFT
        log = safe_log2(x_NI + GELU_SHIFT)
        target_NO = exact_NO + GELU_SHIFT * used_OI.sum(1)

        def table(a: float, b: float) -> LogTable:
            q = first + round(b * (last - first))
            return LogTable("adalog", bits, q, low + a * (top - low))

        def error(a_K1: Tensor, b_K1: Tensor) -> Tensor:
            tables = [table(float(a), float(b)) for a, b in zip(a_K1, b_K1, strict=True)]
            errors = [(t.from_log(log) @ used_OI.T - target_NO).square().mean() for t in tables]
            return torch.stack(errors).unsqueeze(1)

        start = (
            (now.table.scale - low) / (top - low) if top > low else 1.0,
            (now.table.q - first) / (last - first),
        )
        a, b = progressive(error, 1, self.candidates, self.steps, start)
        return ShiftedLog(table(float(a), float(b)), now.shift, now.bits)

    def _best_range(
        self, now: FixedRange, x_NI: Tensor, exact_NO: Tensor, used_OI: Tensor
    ) -> FixedRange:
        levels = 2**now.bits - 1

        def candidate(a: Tensor, b: Tensor) -> FixedRange:
            """Each end of the range from 0.5 to 1.1 times where it is."""
            low = now.low * (0.5 + 0.6 * a)
            high = (now.low + levels * now.scale) * (0.5 + 0.6 * b)
            step = torch.where(high > low, (high - low) / levels, now.scale)
            return FixedRange(step.reshape(-1), (-low / step).reshape(-1), now.bits)

        def error(a_K1: Tensor, b_K1: Tensor) -> Tensor:
            ranges = [candidate(a, b) for a, b in zip(a_K1, b_K1, strict=True)]
            errors = [(r(x_NI) @ used_OI.T - exact_NO).square().mean() for r in ranges]
            return torch.stack(errors).unsqueeze(1)

        a, b = progressive(error, 1, self.candidates, self.steps, (5 / 6, 5 / 6))
        return candidate(a, b)

    def _search_weight(self, layer: Layer, x_NI: Tensor) -> None:
        if layer.weight is None:
            return
        assert layer.activation is not None
        used_NI = layer.activation(x_NI, 0)
        # Error of an output as a quadratic form of its row: w' A w - 2 w' B w0 + constant.
        gram_II, cross_II = used_NI.T @ used_NI, used_NI.T @ x_NI
        linear_OI = layer.weight_OI @ cross_II.T
        scales = best_rows(
            layer.weight, layer.weight_OI, gram_II, linear_OI, self.candidates, self.steps
        )
        layer.rounded_OI = layer.weight.apply(layer.weight_OI, scales)


def best_rows(
    quantizer: FakeQuantizer,
    weight_OI: Tensor,
    gram_II: Tensor,
    linear_OI: Tensor,
    candidates: int,
    steps: int,
) -> Scales:
    """Ranges of the rows of a weight whose rounding makes `w' A w - 2 w' l` small.

    Raises:
        ValueError: the quantizer has not one asymmetric range for each row.
    """
    spec = quantizer.spec
    if not spec.asymmetric or spec.group != Sharing.ROW:
        raise ValueError(
            f"step adalog searches one asymmetric range for each output channel, not {spec}; "
            "write weight: {format: INT4, group: row, asymmetric: true}"
        )
    low_O, high_O = weight_OI.amin(1).clamp_max(0), weight_OI.amax(1).clamp_min(0)
    last = 2**spec.bits - 1

    def scale_and_zero_point(a_KO: Tensor, b_KO: Tensor) -> tuple[Tensor, Tensor]:
        low, high = low_O * (0.4 + 0.6 * a_KO), high_O * (0.4 + 0.6 * b_KO)
        step = torch.where(high > low, (high - low) / last, 1.0).unsqueeze(-1)
        return step, -torch.round(low.unsqueeze(-1) / step)

    def error(a_KO: Tensor, b_KO: Tensor) -> Tensor:
        errors = []
        for a, b in zip(a_KO.split(8), b_KO.split(8), strict=True):
            scale, zero_point = scale_and_zero_point(a, b)
            codes = torch.round(weight_OI / scale).add_(zero_point).clamp_(0, last)
            row_KOI = codes.sub_(zero_point).mul_(scale)
            errors.append((row_KOI * (row_KOI @ gram_II - 2 * linear_OI)).sum(-1))
        return torch.cat(errors)

    a, b = progressive(error, len(weight_OI), candidates, steps)
    scale, zero_point = scale_and_zero_point(a, b)
    return Scales(scale.unsqueeze(-1), None, zero_point.unsqueeze(-1))  # a block for each row
