# SPDX-License-Identifier: Apache-2.0
"""Attention with logarithmic probabilities and operands of fixed range: kind `log-softmax`.

Sources: RepQ-ViT (arXiv:2212.08254), AdaLog (arXiv:2407.12951), I&S-ViT (arXiv:2311.10126), which
quantize both products of attention, query, key and value with one range for each tensor.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from lutvar.quant.methods.calibration.fixed_range import (
    PERCENTILES,
    FixedRange,
    calibrated_range,
    tails,
)
from lutvar.quant.methods.calibration.samples import CalibrationSet, data_by_block
from lutvar.quant.methods.errors import CalibrationError
from lutvar.quant.methods.generator import Model
from lutvar.quant.methods.quantizers.logarithmic import BASE, LogTable, ShiftUniformLog2, safe_log2
from lutvar.quant.var.sites import AttentionOperands, FloatAttention

from .plain import masked_softmax
from .registry import register_attention


class LogSettings(BaseModel):
    """Settings of `log-softmax`.

    Attributes:
        rule: of the probabilities.
        bits: of a probability's code.
        operand_bits: of query, key and value, asymmetric integers of fixed range; None is float.
        samples: calibration samples that are looked at.
        candidates: bases that `adalog` tries in its first round.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    kind: str = "log-softmax"
    rule: Literal["log2", "log-sqrt2", "adalog", "shift-uniform-log2"] = "log-sqrt2"
    bits: int = Field(default=4, ge=2, le=8)
    operand_bits: int | None = Field(default=4, ge=2, le=8)
    samples: int = Field(default=4, ge=1)
    candidates: int = Field(default=16, ge=2)


class _Recorder(FloatAttention):
    """An attention backend that keeps its operands and passes the float result on."""

    def __init__(self) -> None:
        self.tensors: tuple[Tensor, Tensor, Tensor, Tensor] | None = None

    def __call__(self, block: int, x: AttentionOperands) -> Tensor:
        p_BHlL = masked_softmax(x.q_BHlc @ x.k_BHLc.mT * x.scale, x.mask_11LL)
        self.tensors = x.q_BHlc, x.k_BHLc, x.v_BHLc, p_BHlL
        return super().__call__(block, x)


def attention_operands(
    var: Model, calibration: CalibrationSet
) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """q, k, v [B, H, L, c] and probabilities [B, H, L, L] of the float model, block by block."""
    recorder, before = _Recorder(), var.backends.attention
    var.backends.attention = recorder
    try:
        for data in data_by_block(var, calibration):
            if data.x_BLC is not None:
                assert recorder.tensors is not None
                yield recorder.tensors
    finally:
        var.backends.attention = before


@register_attention("log-softmax")
class LogAttention:
    """Both products with quantized operands; the softmax itself in float."""

    @staticmethod
    def needs_data(settings: Mapping[str, Any]) -> bool:
        """Always: ranges and rules come from samples."""
        return True

    def __init__(
        self, settings: Mapping[str, Any], var: Model, calibration: CalibrationSet | None
    ) -> None:
        self.settings = LogSettings(**settings)
        if calibration is None:
            raise CalibrationError("attention.kind log-softmax needs calibration samples")
        few = calibration.first(self.settings.samples)
        self.rules: list[LogTable | ShiftUniformLog2] = []
        self.operands: list[tuple[FixedRange, ...]] = []
        for q, k, v, p in attention_operands(var, few):
            self.operands.append(self._ranges((q, k, v)))
            self.rules.append(self._rule(p, v))

    def state(self) -> dict[str, Any]:
        """Rules and ranges of every block, for files."""
        return {"rules": self.rules, "operands": self.operands}

    @classmethod
    def restored(
        cls, settings: Mapping[str, Any], var: Model, state: Mapping[str, Any]
    ) -> LogAttention:
        """From what `state` gave, without samples."""
        attention = cls.__new__(cls)
        attention.settings = LogSettings(**settings)
        attention.rules, attention.operands = list(state["rules"]), list(state["operands"])
        return attention

    def _ranges(self, operands: tuple[Tensor, ...]) -> tuple[FixedRange, ...]:
        bits = self.settings.operand_bits
        if bits is None:
            return ()
        return tuple(calibrated_range(x.reshape(-1, 1), bits, False) for x in operands)

    def _rule(self, p_BHlL: Tensor, v_BHLc: Tensor) -> LogTable | ShiftUniformLog2:
        rule, bits = self.settings.rule, self.settings.bits
        if rule == "shift-uniform-log2":
            return ShiftUniformLog2.fit(p_BHlL[p_BHlL > 0], bits)
        if rule != "adalog":
            return best_scale(rule, p_BHlL, bits)
        return best_base(p_BHlL, v_BHLc, bits, self.settings.candidates)

    def begin_scale(self, scale_index: int) -> None:
        """Nothing depends on the scale step."""

    def __call__(self, block: int, x: AttentionOperands) -> Tensor:
        q_BHlc, k_BHLc, v_BHLc = x[:3]
        if self.operands[block]:
            ranges = self.operands[block]
            q_BHlc, k_BHLc, v_BHLc = (r(value) for r, value in zip(ranges, x[:3], strict=True))
        p_BHlL = masked_softmax(q_BHlc @ k_BHLc.mT * x.scale, x.mask_11LL)
        quantized = self.rules[block](p_BHlL)
        # A masked key has probability 0, which rules with a shift would not return.
        return torch.where(p_BHlL > 0, quantized, 0.0) @ v_BHLc


def best_scale(kind: str, p_BHlL: Tensor, bits: int) -> LogTable:
    """The table whose scale (1, or a percentile of p) gives the smallest squared error of p."""
    p_N1 = p_BHlL[p_BHlL > 0].unsqueeze(1)
    scales = [1.0, *tails(p_N1, PERCENTILES)[1].flatten().tolist()]
    tables = [LogTable(kind, bits, scale=s) for s in scales]
    log = safe_log2(p_N1)
    return min(tables, key=lambda table: float((table.from_log(log) - p_N1).square().mean()))


def best_base(p_BHlL: Tensor, v_BHLc: Tensor, bits: int, candidates: int) -> LogTable:
    """The base 2**(q / 37) whose probabilities give the smallest squared error of p v.

    A coarse row of q over 10..137 first, then the q between the best and its neighbours.
    """
    exact = p_BHlL @ v_BHLc
    log = safe_log2(p_BHlL)

    def error(q: int) -> float:
        table = LogTable("adalog", bits, q)
        return float((table.from_log(log) @ v_BHLc - exact).square().mean())

    step = max(1, round(128 / candidates))
    errors = {q: error(q) for q in (*range(10, 138, step), BASE)}
    while step > 1:
        best, step = min(errors, key=errors.__getitem__), max(1, step // 2)
        errors |= {q: error(q) for q in (best - step, best + step) if q >= 1 and q not in errors}
    return LogTable("adalog", bits, min(errors, key=errors.__getitem__))
