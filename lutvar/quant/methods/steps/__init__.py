# SPDX-License-Identifier: Apache-2.0
"""The steps of recipes: one small module for each method, found by the name in the recipe."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, ValidationError

from lutvar.quant.methods.layers.layer import Block, Layer, Step
from lutvar.quant.methods.layers.ranged import leaves
from lutvar.quant.var.sites import SiteName
from lutvar.yaml_files import explain

#: Name in recipes -> "module:class", a module of this package or a path with dots; or the class.
STEPS: dict[str, str | type[StepBase]] = {
    "adalog": "adalog:AdaLog",
    "adaround": "adaround:AdaRound",
    "brecq": "brecq:Brecq",
    "factors": "factors:Factors",
    "format-search": "format_search:FormatSearch",
    "galt": "galt:Galt",
    "gps": "gps:GainProjectedScaling",
    "gptq": "gptq:Gptq",
    "hadamard": "hadamard:Hadamard",
    "head-balance": "head_balance:HeadBalance",
    "head-rotation": "head_rotation:HeadRotation",
    "ias": "ias:IasVit",
    "learned-clip": "learned_clip:LearnedClip",
    "mean-shift": "mean_shift:MeanShift",
    "noisyquant": "noisyquant:NoisyQuant",
    "omniquant": "omniquant:OmniQuant",
    "repq": "repq:Repq",
    "smoothquant": "smoothquant:SmoothQuant",
    "static-range": "static_range:StaticRange",
    "static-tokens": "static_tokens:StaticTokens",
    "svdquant": "svdquant:SvdQuant",
    "symmetric-shift": "symmetric_shift:SymmetricShift",
    "vidit": "vidit:ViditBalance",
}


class StepBase(BaseModel, ABC):
    """Settings common to steps; a step's own settings are further fields.

    Attributes:
        step: its name.
        sites: linears that it works on; default all that the recipe covers.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    #: Whether `apply` reads `block.data`, whatever the settings.
    reads_data: ClassVar[bool] = False

    step: str
    sites: tuple[SiteName, ...] | None = None

    @property
    def needs_data(self) -> bool:
        """Whether `apply` reads `block.data` under these settings."""
        return self.reads_data

    @property
    def needs_importance(self) -> tuple[SiteName, ...]:
        """Linears whose `block.data.importance` `apply` reads."""
        return ()

    def chosen(self, block: Block) -> list[Layer]:
        """The layers of this block that the step works on; of split ones, the parts."""
        return [
            part
            for name, layer in block.layers.items()
            if self.sites is None or name in self.sites
            for part in leaves(layer)
        ]

    @abstractmethod
    def apply(self, block: Block) -> None:
        """Change the layers of a block."""


def make_step(settings: Mapping[str, Any]) -> Step:
    """The step that a recipe's entry describes.

    Raises:
        ValueError: unknown step or setting, or a value that the step refuses.
    """
    name = settings.get("step")
    if name not in STEPS:
        raise ValueError(f"unknown step {name!r}; known: {', '.join(sorted(STEPS))}")
    entry = STEPS[name]
    if isinstance(entry, str):
        module, kind = entry.split(":")
        path = module if "." in module else f"{__name__}.{module}"
        entry = getattr(importlib.import_module(path), kind)
    try:
        made: Step = entry(**settings)  # type: ignore[assignment]
    except ValidationError as error:
        raise ValueError(f"step {name!r}: {explain(error, entry)}") from error
    return made
