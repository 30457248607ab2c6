# SPDX-License-Identifier: Apache-2.0
"""The two products of attention with quantized operands: what recipes write under `attention`."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any, Protocol

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from lutvar.quant.var import Var

from .calibration import CalibrationSet
from .quantizers import FakeQuantizer, QuantizerSpec

#: Value of the key `kind` -> "module:class"; the class is made as cls(settings, var, calibration).
#: A class may have `needs_data(settings)` (a static method): whether it reads calibration samples.
KINDS: dict[str, str] = {
    "plain": "lutvar.quant.methods.attention:PlainAttention",
    "log-softmax": "lutvar.quant.methods.log_attention:LogAttention",
}


class AttentionMethod(Protocol):
    """An attention backend (`sites.AttentionBackend`) that is told the scale step."""

    def begin_scale(self, scale_index: int) -> None:
        """A scale step of all rows begins."""

    def __call__(
        self,
        block: int,
        q_BHlc: Tensor,
        k_BHLc: Tensor,
        v_BHLc: Tensor,
        mask_11LL: Tensor | None,
        scale: float,
    ) -> Tensor: ...


def _kind(settings: Mapping[str, Any]) -> Any:
    kind = settings.get("kind", "plain")
    if kind not in KINDS:
        raise ValueError(f"attention.kind = {kind!r}: known are {', '.join(sorted(KINDS))}")
    module, name = KINDS[kind].split(":")
    return getattr(importlib.import_module(module), name)


def make_attention(
    settings: Mapping[str, Any], var: Var, calibration: CalibrationSet | None
) -> AttentionMethod:
    """The method that a recipe's `attention` describes.

    Raises:
        ValueError: unknown kind or setting.
    """
    made: AttentionMethod = _kind(settings)(settings, var, calibration)
    return made


def attention_needs_data(settings: Mapping[str, Any] | None) -> bool:
    """Whether the attention of these settings needs calibration samples."""
    if settings is None:
        return False
    needs = getattr(_kind(settings), "needs_data", None)
    return bool(needs(settings)) if needs is not None else False


class PlainSettings(BaseModel):
    """Quantizers of the four operands; None is float. Rows are the 64 channels of a head."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: str = "plain"
    q: QuantizerSpec | None = None
    k: QuantizerSpec | None = None
    v: QuantizerSpec | None = None
    probabilities: QuantizerSpec | None = None


class PlainAttention:
    """Operands quantized as they come, softmax in float."""

    def __init__(
        self, settings: Mapping[str, Any], var: Var, calibration: CalibrationSet | None
    ) -> None:
        self.settings = PlainSettings(**settings)
        specs = {n: getattr(self.settings, n) for n in ("q", "k", "v", "probabilities")}
        self.quantizers = {n: FakeQuantizer(s) for n, s in specs.items() if s is not None}

    def begin_scale(self, scale_index: int) -> None:
        """Nothing depends on the scale step."""

    def _quantized(self, name: str, x: Tensor) -> Tensor:
        return self.quantizers[name](x) if name in self.quantizers else x

    def __call__(
        self,
        block: int,
        q_BHlc: Tensor,
        k_BHLc: Tensor,
        v_BHLc: Tensor,
        mask_11LL: Tensor | None,
        scale: float,
    ) -> Tensor:
        scores = self._quantized("q", q_BHlc) @ self._quantized("k", k_BHLc).mT * scale
        if mask_11LL is not None:
            scores = scores + mask_11LL
        p = torch.softmax(scores, -1)
        return self._quantized("probabilities", p) @ self._quantized("v", v_BHLc)
