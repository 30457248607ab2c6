# SPDX-License-Identifier: Apache-2.0
"""Recipes: which linears are quantized how, and which steps prepare them. YAML, checked.

    name: fpqvar-fp4
    source: arXiv:2505.16335
    layers:
      qkv: {weight: {format: E2M1}, input: {format: E2M1}}
      ...
    terms: {head: [2, 2], proj: [2, 1], "blocks.3.fc1": [1, 2]}
    steps:
      - {step: channel-factors, sites: [qkv, fc1]}
      - {step: hadamard, sites: [qkv, fc1]}
    attention: {...}
    cache: {format: E2M3, group: row}
    tune: {steps: 80}
    calibration: {samples: 100}

A linear that is not named stays float. Steps run in their order, block by block.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import (
    BaseModel,
    ConfigDict,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)
from typing_extensions import Self

from lutvar.contract.names import Name, Seed
from lutvar.quant.methods.attention.cache import CacheSpec
from lutvar.quant.methods.attention.channel_cache import ChannelCacheSpec
from lutvar.quant.methods.attention.registry import attention_needs_data, check_attention
from lutvar.quant.methods.calibration.prepare import CalibrationSpec
from lutvar.quant.methods.errors import RecipeError
from lutvar.quant.methods.steps import make_step
from lutvar.quant.var.sites import LinearSite, SiteName
from lutvar.yaml_files import YamlError, load_named, shipped

from .specs import ALL_SITES, LayerSpec, MixedSpec, TuneSpec
from .terms import Terms, check_terms


class Recipe(BaseModel):
    """A method with all its settings.

    Attributes:
        name: file name without extension.
        title: one line for tables.
        source: paper (arXiv number, section) or project.
        layers: kind of linear -> quantizers; what is not named stays float.
        terms: linear, of all blocks or of one ("blocks.3.fc1", which goes before "fc1"), -> codes
            whose sum its weights and its inputs are, (weights, inputs), each 1 or 2.
        steps: settings of each step; the key `step` names it.
        attention: settings of the attention products (`attention.make_attention`), or None.
        cache: quantizer of cached keys and values, or None. `group: row` is one scale for each
            token and head; see `attention.cache.CacheSpec` for the rest.
        channel_cache: instead of `cache`, bits and scales by channel (`channel_cache`), or None.
        tune: end-to-end tuning of what is stored, after the steps (`tune`), or None.
        mixed: formats chosen for each linear of each block under a budget, or None.
        calibration: samples for steps that need data.
        seed: for random choices of steps.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: Name
    title: str = ""
    source: str = ""
    layers: dict[SiteName, LayerSpec] = {}
    terms: dict[str, Terms] = {}
    steps: tuple[dict[str, Any], ...] = ()
    attention: dict[str, Any] | None = None
    cache: CacheSpec | None = None
    channel_cache: ChannelCacheSpec | None = None
    tune: TuneSpec | None = None
    mixed: MixedSpec | None = None
    calibration: CalibrationSpec = CalibrationSpec()
    seed: Seed = 0

    @field_validator("steps")
    @classmethod
    def _check_steps(cls, value: tuple[dict[str, Any], ...]) -> tuple[dict[str, Any], ...]:
        for settings in value:
            make_step(settings)
        return value

    @field_validator("attention")
    @classmethod
    def _check_attention(cls, value: dict[str, Any] | None) -> dict[str, Any] | None:
        check_attention(value)
        return value

    @model_serializer(mode="wrap")
    def _without_empty_terms(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Recipes without terms stay what they were for what hashes or compares them."""
        data: dict[str, Any] = dump(self)
        if not self.terms:
            data.pop("terms", None)
        return data

    @model_validator(mode="after")
    def _check_terms(self) -> Self:
        check_terms(self.terms, self._specs())
        return self

    def _specs(self) -> dict[SiteName, list[LayerSpec]]:
        """Linear -> the quantizers that it may get."""
        specs = {name: [spec] for name, spec in self.layers.items()}
        for choice in self.mixed.choices.values() if self.mixed is not None else ():
            for name, spec in choice.items():
                specs.setdefault(name, []).append(spec)
        return specs

    def terms_of(self, site: LinearSite) -> Terms:
        """Codes whose sum the weights and the inputs of a linear are."""
        own = self.terms.get(f"blocks.{site.block}.{site.name}") or self.terms.get(site.name)
        return own or (1, 1)

    @model_validator(mode="after")
    def _one_cache(self) -> Self:
        if self.cache is not None and self.channel_cache is not None:
            raise ValueError("cache and channel_cache both say how keys are kept; leave one out")
        return self

    @property
    def needs_data(self) -> bool:
        """Whether a step, tuning, attention or the choice of formats needs calibration samples."""
        if self.tune is not None or (self.mixed is not None and set(self.mixed.kinds) != {"zd"}):
            return True
        steps = any(make_step(s).needs_data for s in self.steps)
        return steps or attention_needs_data(self.attention)

    def with_outliers(self, seed: int) -> Recipe:
        """The recipe for a model with outliers in front of fc2 (step `outliers`)."""
        step = {"step": "outliers", "seed": seed}
        return self.model_copy(
            update={"name": f"{self.name}-outliers-{seed}", "steps": (step, *self.steps)}
        )

    def coverage(self) -> dict[SiteName, str]:
        """Kind of linear -> "W4A4", "W4A4 or W6A6", "float", for every linear of the model."""
        result: dict[SiteName, str] = {}
        for name in ALL_SITES:
            specs = [self.layers.get(name, LayerSpec())]
            if self.mixed is not None:
                specs = [c[name] for c in self.mixed.choices.values() if name in c] or specs
            texts = []
            for spec in specs:
                w, a = (str(s.bits) if s else "32" for s in (spec.weight, spec.input))
                texts.append("float" if w == a == "32" else f"W{w}A{a}")
            result[name] = " or ".join(dict.fromkeys(texts))
        return result


def recipe_names() -> list[str]:
    """Names of the recipes that come with lutvar."""
    return shipped("recipes")


def load_recipe(name_or_path: str | Path) -> Recipe:
    """Read a recipe by name or from a YAML file.

    Raises:
        RecipeError: no such recipe or file, bad YAML, an unknown key, linear, step or format, or a
            file that is not named like its recipe.
    """
    try:
        return load_named(Recipe, "recipes", name_or_path, "recipe")
    except YamlError as error:
        raise RecipeError(str(error)) from error
