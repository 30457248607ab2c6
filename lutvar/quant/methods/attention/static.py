# SPDX-License-Identifier: Apache-2.0
"""Attention with static operand ranges: scale and zero point of each operand and block.

Source: PTQ4ARVG (arXiv:2601.21238), released code: q, k, probabilities and values are asymmetric
integers for the whole tensor, ranges from percentiles as for the linears.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field, field_validator, model_validator
from torch import Tensor
from typing_extensions import Self

from lutvar.contract.formats import get_format
from lutvar.quant.methods.calibration.network import RunningRange, parts_of, run_network
from lutvar.quant.methods.calibration.samples import CalibrationSet, replay
from lutvar.quant.methods.generator import Model, generator_of
from lutvar.quant.methods.quantizers.logarithmic import LogTable
from lutvar.quant.methods.quantizers.percentiles import (
    PERCENTILES,
    ZeroPoints,
    average_range,
    percentile_range,
)
from lutvar.quant.methods.quantizers.spec import QuantizerSpec, Sharing
from lutvar.quant.methods.quantizers.static import StaticQuantizer

from .plain import PlainAttention, PlainSettings
from .registry import MeasuredModel, register_attention

#: Values kept of one operand in one call while ranges are measured; more are thinned out evenly.
MAX_SAMPLES = 1 << 17


class StaticSettings(PlainSettings):
    """Format of all four operands.

    Attributes:
        format: an INT format; the operands are asymmetric integers of it.
        samples: calibration samples (rows, if the set has chosen rows) that are measured; 0 all.
        batch: rows for each range; later batches enter the moving average.
        order: "replay" measures with quantized linears and float attention, scale step by scale
            step; "network" finds all static ranges anew in one run of the quantized model, all
            tokens at once, so that attention is quantized before it too (PTQ4ARVG's released code).
        zero_points: of several batches, "rounded" or "averaged".
        probability_codes: "uniform", or "log-sqrt2", powers of the square root of two below a
            percentile of the probabilities (PTQ4ARVG's released code for PAR).
    """

    kind: Literal["static"] = "static"
    format: str = "INT8"
    samples: int = Field(default=16, ge=0)
    batch: int = Field(default=32, ge=1)
    order: Literal["replay", "network"] = "replay"
    zero_points: ZeroPoints = "rounded"
    probability_codes: Literal["uniform", "log-sqrt2"] = "uniform"

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.order == "network" and self.probability_codes != "uniform":
            raise ValueError("order network finds uniform ranges; use replay with log-sqrt2")
        return self

    @field_validator("format")
    @classmethod
    def _integer(cls, value: str) -> str:
        if not get_format(value).name.startswith("INT"):
            raise ValueError(f"static attention has asymmetric integers; {value} is not one")
        return value

    @field_validator("q", "k", "v", "probabilities")
    @classmethod
    def _none(cls, value: QuantizerSpec | None) -> None:
        if value is not None:
            raise ValueError("kind static takes `format` for all operands, no quantizers")


@register_attention("static")
class StaticAttention(PlainAttention):
    """Ranges are measured on the model with quantized linears, its attention still in float.

    Attributes:
        fixed: (block, operand) -> quantizer; empty until it was measured.
        tables: block -> quantizer of its probabilities, where those are logarithmic.
    """

    settings: StaticSettings
    settings_type = StaticSettings

    def __init__(
        self, settings: Mapping[str, Any], var: Model, calibration: CalibrationSet | None
    ) -> None:
        super().__init__(settings, var, calibration)
        self.fixed: dict[tuple[int, str], StaticQuantizer] = {}
        self.tables: dict[int, LogTable] = {}
        self._samples: dict[tuple[int, str], list[Tensor]] | None = None
        self._running: dict[tuple[int, str], RunningRange] | None = None

    @staticmethod
    def needs_data(settings: Mapping[str, Any]) -> bool:
        """Always."""
        return True

    def measure(self, model: MeasuredModel) -> None:
        """Fix the ranges."""
        spec = QuantizerSpec(format=self.settings.format, group=Sharing.TENSOR, asymmetric=True)
        calibration = model.calibration
        if self.settings.samples and calibration.rows is None:
            calibration = calibration.first(self.settings.samples)
        elif self.settings.samples:
            calibration = calibration.with_rows(self.settings.samples)
        if self.settings.order == "network":
            self._measure_network(model, calibration)
            return
        rows = len(calibration.row_data(0)[0])
        ranges: dict[tuple[int, str], list[tuple[Tensor, Tensor]]] = {}
        for start in range(0, rows, self.settings.batch):
            self._samples = {}
            # Every n-th row, so that each batch holds both halves.
            count = -(-rows // self.settings.batch)
            replay(model.var, calibration, slice(start // self.settings.batch, None, count))
            for key, parts in self._samples.items():
                x_M = torch.cat(parts)
                logarithmic = self._logarithmic(key[1])
                pair = (
                    log_range(x_M, spec.bits)
                    if logarithmic
                    else (percentile_range(x_M.unsqueeze(0), spec.bits))
                )
                ranges.setdefault(key, []).append(pair)
        self._samples = None
        for key, pairs in ranges.items():
            self._fix(key, *average_range(pairs, self.settings.zero_points))

    def _logarithmic(self, name: str) -> bool:
        return name == "probabilities" and self.settings.probability_codes == "log-sqrt2"

    def _fix(self, key: tuple[int, str], scale: Tensor, zero_point: Tensor) -> None:
        if self._logarithmic(key[1]):
            bits = get_format(self.settings.format).bits
            self.tables[key[0]] = LogTable("log-sqrt2", bits, scale=float(scale))
        else:
            self.fixed[key] = self._quantizer(scale, zero_point)

    def _quantizer(self, scale: Tensor, zero_point: Tensor) -> StaticQuantizer:
        settings = self.settings
        return StaticQuantizer.of(settings.format, scale, zero_point, (0,), settings.zero_points)

    def follow(self, follows: bool) -> None:
        """From now on ranges follow what comes in, or stay as they have become."""
        self._running = {} if self._running is None else self._running
        for range_ in self._running.values():
            range_.follows = follows

    def _measure_network(self, model: MeasuredModel, calibration: CalibrationSet) -> None:
        scales = generator_of(model.var).scales
        running = {
            site: RunningRange(
                int(layer.activation.bits),
                parts_of(layer.activation.pair_of_scale, scales),
                zero_points=self.settings.zero_points,
            )
            for site, layer in model.layers.items()
            if isinstance(layer.activation, StaticQuantizer)
        }
        self.follow(True)
        run_network(
            model.var, calibration, model.layers, running, self, self.settings.batch, model.masked
        )
        assert self._running is not None
        for key, range_ in self._running.items():
            self.fixed[key] = self._quantizer(range_.range.scale, range_.range.zero_point)
        self._running = None

    def state(self) -> dict[str, Tensor]:
        """The ranges, for files: "block.operand" -> (scale, minus zero point)."""
        return {
            f"{block}.{name}": torch.cat((fixed.scale_S, -fixed.zero_point_S))
            for (block, name), fixed in self.fixed.items()
        } | {
            f"{block}.probabilities": torch.tensor((table.scale, 0.0), dtype=torch.float32)
            for block, table in self.tables.items()
        }

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take back what `state` gave."""
        for key, pair in state.items():
            block, name = key.split(".")
            self._fix((int(block), name), pair[:1], -pair[1:])

    def _static(self, block: int, name: str, x: Tensor) -> Tensor:
        if self._samples is not None:
            flat = x.detach().flatten()
            stride = -(-flat.numel() // MAX_SAMPLES)
            self._samples.setdefault((block, name), []).append(flat[::stride].clone())
            return x
        if self._running is not None:
            bits = get_format(self.settings.format).bits
            fresh = RunningRange(bits, zero_points=self.settings.zero_points)
            return self._running.setdefault((block, name), fresh)(x)
        if name == "probabilities" and block in self.tables:
            return self.tables[block](x)
        if (block, name) not in self.fixed:
            raise RuntimeError(f"block {block}: attention was not measured; build it with data")
        return self.fixed[block, name](x, 0)

    def scores(self, block: int, q_BHlc: Tensor, k_BHLc: Tensor, scale: float) -> Tensor:
        """Scores of quantized queries and keys."""
        q_BHlc = self._static(block, "q", q_BHlc * scale)
        return q_BHlc @ self._static(block, "k", k_BHLc).mT

    def product(self, block: int, p_BHlL: Tensor, v_BHLc: Tensor) -> Tensor:
        """Quantized probabilities times quantized values."""
        p_BHlL = self._static(block, "probabilities", p_BHlL)
        return p_BHlL @ self._static(block, "v", v_BHLc)


def log_range(p_M: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Scale, and 0 in place of a zero point, [1] each: the percentile with the least error."""
    scales = np.quantile(p_M.numpy(), PERCENTILES).clip(min=2.0**-24).tolist()
    tables = [LogTable("log-sqrt2", bits, scale=scale) for scale in scales]
    best = min(tables, key=lambda table: float((table(p_M) - p_M).square().mean()))
    return torch.tensor([best.scale], dtype=torch.float32), torch.zeros(1, dtype=torch.float32)
