# SPDX-License-Identifier: Apache-2.0
"""The two products of attention with quantized operands: what recipes write under `attention`."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor

from lutvar.quant.methods.calibration.samples import CalibrationSet
from lutvar.quant.methods.layers.layer import Layer
from lutvar.quant.methods.quantizers.fake import FakeQuantizer, QuantizerSpec
from lutvar.quant.var import Var
from lutvar.quant.var.sites import LinearSite
from lutvar.yaml_files import explain

#: Value of the key `kind` -> "module:class"; the class is made as cls(settings, var, calibration).
#: A class may have `needs_data`, a flag or a function of the settings: whether it reads calibration
#: samples.
KINDS: dict[str, str] = {
    "plain": "lutvar.quant.methods.attention.kinds:PlainAttention",
    "log-softmax": "lutvar.quant.methods.attention.log_softmax:LogAttention",
    "sage": "lutvar.quant.methods.attention.sage:SageAttention",
    "shift-and-sum": "lutvar.quant.methods.attention.shift_and_sum:ShiftAndSumAttention",
    "static": "lutvar.quant.methods.attention.static:StaticAttention",
}


class AttentionMethod(Protocol):
    """An attention backend (`sites.AttentionBackend`) that is told the scale step.

    A method may further have
    `needs_data`, a bool or a static method of the settings: whether it reads calibration samples;
    `measure(model)`: called once with a `MeasuredModel` when the linears are done;
    `begin_rows(paired)`: called when new rows begin, see `PlainAttention`;
    `state()` and `load_state(state)`, or a class method `restored(settings, var, state)`: what
    files keep of a measured method, in values that `state.pack` takes;
    `keeps_values`: true when the cache must leave values alone, since the method quantizes them.
    """

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


@dataclass(frozen=True)
class MeasuredModel:
    """What an attention method sees when it is measured.

    Attributes:
        var: the model with quantized linears, cache and the attention method itself in place.
        shapes: (outputs, inputs) of every linear.
        layers: the quantized linears.
        calibration: the samples.
    """

    var: Var
    shapes: Mapping[LinearSite, tuple[int, int]]
    layers: Mapping[LinearSite, Layer]
    calibration: CalibrationSet


def attention_class(settings: Mapping[str, Any]) -> Any:
    """The class of a kind. Raises ValueError for an unknown one."""
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
    made: AttentionMethod = attention_class(settings)(settings, var, calibration)
    return made


def check_attention(settings: Mapping[str, Any] | None) -> None:
    """Raise ValueError for an unknown kind or setting, as far as its `settings_type` tells."""
    if settings is None:
        return
    settings_type = getattr(attention_class(settings), "settings_type", None)
    if settings_type is not None:
        try:
            settings_type(**settings)
        except ValidationError as error:
            raise ValueError(explain(error, settings_type)) from error


def attention_needs_data(settings: Mapping[str, Any] | None) -> bool:
    """Whether the attention of these settings needs calibration samples."""
    if settings is None:
        return False
    needs = getattr(attention_class(settings), "needs_data", False)
    return bool(needs(settings) if callable(needs) else needs)


def masked_softmax(scores_BHlL: Tensor, mask_11LL: Tensor | None) -> Tensor:
    """Probabilities [B, H, l, L] of scores with the mask, if any, added."""
    if mask_11LL is not None:
        scores_BHlL = scores_BHlL + mask_11LL
    return torch.softmax(scores_BHlL, -1)


class PlainSettings(BaseModel):
    """Quantizers of the four operands; None is float. Rows are the 64 channels of a head.

    Attributes:
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


class PlainAttention:
    """Operands quantized as they come, softmax in float. Other kinds override parts of it."""

    settings_type: type[PlainSettings] = PlainSettings
    keeps_values = False

    def __init__(
        self, settings: Mapping[str, Any], var: Var, calibration: CalibrationSet | None
    ) -> None:
        self.settings = self.settings_type(**settings)
        specs = {n: getattr(self.settings, n) for n in ("q", "k", "v", "probabilities")}
        self.quantizers = {n: FakeQuantizer(s) for n, s in specs.items() if s is not None}
        self.scale_index, self.paired = 0, False

    def begin_scale(self, scale_index: int) -> None:
        """Remember the scale step."""
        self.scale_index = scale_index

    def begin_rows(self, paired: bool) -> None:
        """New rows begin; paired: the second half are the unconditional rows of the first half."""
        self.paired = paired

    def _quantized(self, name: str, x: Tensor) -> Tensor:
        if name not in self.quantizers:
            return x
        quantized = self.quantizers[name](x)
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

    def __call__(
        self,
        block: int,
        q_BHlc: Tensor,
        k_BHLc: Tensor,
        v_BHLc: Tensor,
        mask_11LL: Tensor | None,
        scale: float,
    ) -> Tensor:
        shared = self.settings.share_halves and self.paired
        if shared:
            half = q_BHlc.shape[0] // 2
            q_BHlc, k_BHLc, v_BHLc = q_BHlc[:half], k_BHLc[:half], v_BHLc[:half]
        scores = self.scores(block, q_BHlc, k_BHLc, scale)
        y_BHlc = self.product(block, masked_softmax(scores, mask_11LL), v_BHLc)
        return y_BHlc.repeat(2, 1, 1, 1) if shared else y_BHlc
