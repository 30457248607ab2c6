# SPDX-License-Identifier: Apache-2.0
"""Kinds of attention: what recipes name under `attention.kind`, and what a kind must offer.

A kind is a class made as `cls(settings, var, calibration)` and registered by name with
`register_attention`. The kinds of lutvar are the modules beside this one; a package of a user's
declares an entry point of the group `lutvar.attention` with the kind's name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from pydantic import ValidationError

from lutvar.quant.methods.calibration.samples import CalibrationSet
from lutvar.quant.methods.generator import Model
from lutvar.quant.methods.layers.layer import Layer
from lutvar.quant.methods.plugins import Registry
from lutvar.quant.var.sites import AttentionBackend, LinearSite
from lutvar.yaml_files import explain

#: The kinds that are known, by name.
KINDS: Registry[Any] = Registry("attention.kind", __package__, "lutvar.attention")
#: Decorator: makes a class known to recipes under a name.
register_attention = KINDS.register


class AttentionMethod(AttentionBackend, Protocol):
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


@dataclass(frozen=True)
class MeasuredModel:
    """What an attention method sees when it is measured.

    Attributes:
        var: the model with quantized linears, cache and the attention method itself in place.
        shapes: (outputs, inputs) of every linear.
        layers: the quantized linears.
        calibration: the samples.
        masked: as the recipe's `calibration.mask` says.
    """

    var: Model
    shapes: Mapping[LinearSite, tuple[int, int]]
    layers: Mapping[LinearSite, Layer]
    calibration: CalibrationSet
    masked: bool = True


def attention_class(settings: Mapping[str, Any]) -> Any:
    """The class of a kind. Raises ValueError for an unknown one."""
    return KINDS.get(settings.get("kind", "plain"))


def make_attention(
    settings: Mapping[str, Any], var: Model, calibration: CalibrationSet | None
) -> AttentionMethod:
    """The method that a recipe's `attention` describes.

    Raises:
        ValueError: unknown kind or setting.
    """
    method: AttentionMethod = attention_class(settings)(settings, var, calibration)
    return method


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
