# SPDX-License-Identifier: Apache-2.0
"""The two products of attention with quantized operands: what recipes write under `attention`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, model_validator
from torch import Tensor
from typing_extensions import Self

from lutvar.quant.methods.calibration.samples import CalibrationSet
from lutvar.quant.methods.generator import Model
from lutvar.quant.methods.quantizers.fake import FakeQuantizer
from lutvar.quant.methods.quantizers.spec import QuantizerSpec, Sharing
from lutvar.quant.methods.quantizers.straight import straight
from lutvar.quant.var.sites import AttentionOperands

from .registry import register_attention


def masked_softmax(scores_BHlL: Tensor, mask_11LL: Tensor | None) -> Tensor:
    """Probabilities [B, H, l, L] of scores with the mask, if any, added."""
    if mask_11LL is not None:
        scores_BHlL = scores_BHlL + mask_11LL
    return torch.softmax(scores_BHlL, -1)


class PlainSettings(BaseModel):
    """Quantizers of the four operands; None is float. Rows are the 64 channels of a head.

    Attributes:
        k_scale: "token": a key is a row; "channel": a channel of all cached keys of a head is a row
            of k's quantizer, so that scales change as tokens come in.
        share_halves: the unconditional half takes the output of the conditional half of the same
            image (LiteVAR, arXiv:2411.17178), when both are there.
        keep_length: quantized q and k get back the length that they had, as on the accelerator
            (docs/arithmetic.md, section 10), which normalises after quantizing.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    kind: str = "plain"
    q: QuantizerSpec | None = None
    k: QuantizerSpec | None = None
    v: QuantizerSpec | None = None
    probabilities: QuantizerSpec | None = None
    share_halves: bool = False
    keep_length: bool = False
    k_scale: Literal["token", "channel"] = "token"

    @model_validator(mode="after")
    def _rows(self) -> Self:
        if self.k_scale == "channel" and (self.k is None or self.k.group != Sharing.ROW):
            raise ValueError(
                "attention.k_scale: channel needs a quantizer k with group: row, a row being a "
                "channel over all cached tokens"
            )
        return self


@register_attention("plain")
class PlainAttention:
    """Operands quantized as they come, softmax in float. Other kinds override parts of it.

    Attributes:
        learning: while it is true, quantizers pass gradients on (`quantizers.straight`).
    """

    settings_type: type[PlainSettings] = PlainSettings
    keeps_values = False

    def __init__(
        self, settings: Mapping[str, Any], var: Model, calibration: CalibrationSet | None
    ) -> None:
        self.settings = self.settings_type(**settings)
        specs = {n: getattr(self.settings, n) for n in ("q", "k", "v", "probabilities")}
        self.quantizers = {n: FakeQuantizer(s) for n, s in specs.items() if s is not None}
        self.scale_index, self.paired, self.learning = 0, False, False

    def begin_scale(self, scale_index: int) -> None:
        """Remember the scale step."""
        self.scale_index = scale_index

    def begin_rows(self, paired: bool) -> None:
        """New rows begin; paired: the second half are the unconditional rows of the first half."""
        self.paired = paired

    def _quantized(self, name: str, x: Tensor) -> Tensor:
        if name not in self.quantizers:
            return x
        quantizer = self.quantizers[name]
        by_channel = name == "k" and self.settings.k_scale == "channel"
        rows = x.mT if by_channel else x
        quantized = straight(quantizer, rows) if self.learning else quantizer(rows)
        quantized = quantized.mT if by_channel else quantized
        if self.settings.keep_length and name in ("q", "k"):
            length = quantized.norm(dim=-1, keepdim=True).clamp_min(1e-12)
            quantized = quantized * (x.norm(dim=-1, keepdim=True) / length)
        return quantized

    def scores(self, block: int, q_BHlc: Tensor, k_BHLc: Tensor, scale: float) -> Tensor:
        """Scores before mask and softmax, [B, H, l, L]."""
        return self._quantized("q", q_BHlc) @ self._quantized("k", k_BHLc).mT * scale

    def product(self, block: int, p_BHlL: Tensor, v_BHLc: Tensor) -> Tensor:
        """Probabilities times values, [B, H, l, c]."""
        return self._quantized("probabilities", p_BHlL) @ self._quantized("v", v_BHLc)

    def __call__(self, block: int, x: AttentionOperands) -> Tensor:
        shared = self.settings.share_halves and self.paired
        if shared:
            half = x.q_BHlc.shape[0] // 2
            x = x._replace(q_BHlc=x.q_BHlc[:half], k_BHLc=x.k_BHLc[:half], v_BHLc=x.v_BHLc[:half])
        scores = self.scores(block, x.q_BHlc, x.k_BHLc, x.scale)
        y_BHlc = self.product(block, masked_softmax(scores, x.mask_11LL), x.v_BHLc)
        return y_BHlc.repeat(2, 1, 1, 1) if shared else y_BHlc
