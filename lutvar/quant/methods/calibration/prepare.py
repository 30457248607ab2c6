# SPDX-License-Identifier: Apache-2.0
"""The calibration samples that a recipe asks for, drawn from the float model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from pydantic import BaseModel, ConfigDict, Field, model_validator
from typing_extensions import Self

from lutvar.contract.names import Seed
from lutvar.quant.methods.errors import CalibrationError
from lutvar.quant.methods.generator import Model
from lutvar.quant.var import Var, Vqvae

from .relevance import Classify, class_relevance
from .resample import ResampleRule
from .samples import CalibrationSet, ClassDraw, calibration_set
from .select import SelectSpec, select


class CalibrationSpec(BaseModel):
    """Samples that the float model generates for steps that need data (`prepare_calibration`).

    Attributes:
        samples: how many images.
        draw: their classes: in turn, or drawn at random (`samples.calibration_set`).
        steps: how many of them steps see (all where None); `tune` sees all.
        seed: of their random stream.
        resample: rule by which tokens are moved (`resample`), or None.
        select: which of the rows are used (`select`), None for all.
        mask: whether tokens see coarser scales and their own alone, as in generation; PTQ4ARVG's
            released code lets them see all while it calibrates.
        relevance: samples from which the relevance of linears for the class is taken; 0 for none.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    samples: int = Field(default=64, ge=1)
    draw: ClassDraw = "turn"
    steps: int | None = Field(default=None, ge=1)
    seed: Seed = 0
    resample: ResampleRule | None = None
    select: SelectSpec | None = None
    mask: bool = True
    relevance: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.steps is not None and (self.select is not None or self.steps > self.samples):
            raise ValueError(
                f"steps = {self.steps}: at most samples ({self.samples}), and not with select"
            )
        return self


def prepare_calibration(
    var: Model,
    vqvae: Vqvae | None,
    spec: CalibrationSpec,
    cfg: float = 1.5,
    top_k: int = 0,
    top_p: float = 0.0,
    classifier: Callable[[], Classify] | None = None,
) -> CalibrationSet:
    """The calibration set that a recipe describes; the sampling settings are the model's.

    `classifier` gives the model's classifier; it is called for recipes with `relevance` alone.

    Raises:
        CalibrationError: samples that the settings cannot use.
    """
    calibration = calibration_set(
        var, vqvae, spec.samples, spec.seed, cfg, top_k, top_p, spec.resample, spec.draw
    )
    classes = var.config.num_classes
    if spec.samples < classes:
        missing = f"only {spec.samples} of {classes} classes have a calibration sample"
        calibration = replace(calibration, notes=(*calibration.notes, missing))
    if spec.relevance:
        if classifier is None or vqvae is None or not isinstance(var, Var):
            raise CalibrationError(
                "calibration.relevance: relevance is that for a class, and this model comes "
                "without a classifier of its images; leave it out"
            )
        given = calibration.first(spec.relevance)
        found = class_relevance(var, vqvae, classifier(), given)
        calibration = replace(calibration, relevance=found)
    return calibration if spec.select is None else select(var, calibration, spec.select)
