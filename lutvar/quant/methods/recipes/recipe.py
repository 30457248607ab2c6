# SPDX-License-Identifier: Apache-2.0
"""Recipes: which linears are quantized how, and which steps prepare them. YAML, checked.

    name: fpqvar-fp4
    source: arXiv:2505.16335
    layers:
      qkv: {weight: {format: E2M1}, input: {format: E2M1}}
      ...
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

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from typing_extensions import Self

from lutvar.contract.names import Name, Seed
from lutvar.quant.methods.attention.kinds import attention_needs_data, check_attention
from lutvar.quant.methods.calibration.resample import ResampleRule
from lutvar.quant.methods.calibration.samples import CalibrationSet, calibration_set
from lutvar.quant.methods.calibration.select import SelectSpec, select
from lutvar.quant.methods.quantizers.fake import QuantizerSpec
from lutvar.quant.methods.steps import make_step
from lutvar.quant.var import Var, Vqvae
from lutvar.quant.var.sites import SINGLE_SITES, SITE_NAMES, SiteName
from lutvar.yaml_files import YamlError, load_named, shipped

from .tune import TuneSpec

#: Every linear of the model that a recipe may name.
ALL_SITES: tuple[SiteName, ...] = (*SITE_NAMES, "ada_lin", *SINGLE_SITES)


class RecipeError(ValueError):
    """A recipe that cannot be used; names the key, the value and the rule."""


class LayerSpec(BaseModel):
    """Quantizers of one kind of linear; None is float."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    weight: QuantizerSpec | None = None
    input: QuantizerSpec | None = None


class CalibrationSpec(BaseModel):
    """Samples that the float model generates for steps that need data (`prepare_calibration`).

    Attributes:
        samples: how many images; classes in turn.
        steps: how many of them steps see (all where None); `tune` sees all.
        seed: of their random stream.
        resample: rule by which tokens are moved (`resample`), or None.
        select: which of the rows are used (`select`), None for all.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    samples: int = Field(default=64, ge=1)
    steps: int | None = Field(default=None, ge=1)
    seed: Seed = 0
    resample: ResampleRule | None = None
    select: SelectSpec | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.steps is not None and (self.select is not None or self.steps > self.samples):
            raise ValueError(
                f"steps = {self.steps}: at most samples ({self.samples}), and not with select"
            )
        return self


def prepare_calibration(
    var: Var,
    vqvae: Vqvae,
    spec: CalibrationSpec,
    cfg: float = 1.5,
    top_k: int = 0,
    top_p: float = 0.0,
) -> CalibrationSet:
    """The calibration set that a recipe describes; the sampling settings are the model's.

    Raises:
        CalibrationError: samples that the settings cannot use.
    """
    made = calibration_set(
        var, vqvae, spec.samples, spec.seed, cfg, top_k, top_p, resample=spec.resample
    )
    classes = var.config.num_classes
    if spec.samples < classes:
        missing = f"only {spec.samples} of {classes} classes have a calibration sample"
        made = replace(made, notes=(*made.notes, missing))
    return made if spec.select is None else select(var, made, spec.select)


class MixedSpec(BaseModel):
    """Formats to choose from for each linear of each block, and what limits the choice.

    Attributes:
        choices: name -> linear -> quantizers. All name the same block linears.
        budget: one of "bits" (mean bits of a weight's code), "bytes" (weights with their scales,
            read once), "luts" (mean LUTs of the multiplier that a product needs).
        sensitivity: "kl" of the model's output, "output" error of the linear, or the rankings
            "lim" and "zd".
        samples: calibration samples for "kl".
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    choices: dict[str, dict[SiteName, LayerSpec]]
    budget: dict[Literal["bits", "bytes", "luts"], float]
    sensitivity: Literal["kl", "output", "lim", "zd"] = "output"
    samples: int = Field(default=4, ge=1)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if len(self.budget) != 1 or min(self.budget.values()) <= 0:
            raise ValueError(f"budget {self.budget}: give one of bits, bytes, luts, above 0")
        covered = {frozenset(specs) for specs in self.choices.values()}
        if len(self.choices) < 2 or len(covered) != 1 or not covered <= {frozenset(SITE_NAMES)}:
            raise ValueError(
                "choices: give at least two, each naming the linears " + ", ".join(SITE_NAMES)
            )
        for name, specs in self.choices.items():
            for site, spec in specs.items():
                if spec.weight is None or ("luts" in self.budget and spec.input is None):
                    raise ValueError(f"choices.{name}.{site}: weight (and input) need a quantizer")
        return self

    @property
    def budget_item(self) -> tuple[str, float]:
        """(unit, limit)."""
        return next(iter(self.budget.items()))

    @property
    def limit(self) -> float:
        """The budget's number."""
        return self.budget_item[1]


class Recipe(BaseModel):
    """A method with all its settings.

    Attributes:
        name: file name without extension.
        title: one line for tables.
        source: paper (arXiv number, section) or project.
        layers: kind of linear -> quantizers; what is not named stays float.
        steps: settings of each step; the key `step` names it.
        attention: settings of the attention products (`attention.make_attention`), or None.
        cache: quantizer of cached keys and values, or None. `group: row` is one scale for each
            token and head.
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
    steps: tuple[dict[str, Any], ...] = ()
    attention: dict[str, Any] | None = None
    cache: QuantizerSpec | None = None
    tune: TuneSpec | None = None
    mixed: MixedSpec | None = None
    calibration: CalibrationSpec = CalibrationSpec()
    seed: Seed = 0

    @field_validator("steps")
    @classmethod
    def _known_steps(cls, value: tuple[dict[str, Any], ...]) -> tuple[dict[str, Any], ...]:
        for settings in value:
            make_step(settings)
        return value

    @field_validator("attention")
    @classmethod
    def _known_attention(cls, value: dict[str, Any] | None) -> dict[str, Any] | None:
        check_attention(value)
        return value

    @property
    def needs_data(self) -> bool:
        """Whether a step, tuning, attention or the choice of formats needs calibration samples."""
        if self.tune is not None or (self.mixed is not None and self.mixed.sensitivity != "zd"):
            return True
        steps = any(make_step(s).needs_data for s in self.steps)
        return steps or attention_needs_data(self.attention)

    def coverage(self) -> dict[SiteName, str]:
        """Kind of linear -> "W4A4", "W4A4 or W6A6", "float", for every linear of the model."""
        found: dict[SiteName, str] = {}
        for name in ALL_SITES:
            specs = [self.layers.get(name, LayerSpec())]
            if self.mixed is not None:
                specs = [c[name] for c in self.mixed.choices.values() if name in c] or specs
            texts = []
            for spec in specs:
                w, a = (str(s.bits) if s else "32" for s in (spec.weight, spec.input))
                texts.append("float" if w == a == "32" else f"W{w}A{a}")
            found[name] = " or ".join(dict.fromkeys(texts))
        return found


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
