# SPDX-License-Identifier: Apache-2.0
"""What a recipe's keys hold: quantizers of linears, formats to choose from, tuning."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from typing_extensions import Self

from lutvar.quant.methods.quantizers.spec import QuantizerSpec
from lutvar.quant.var.sites import SINGLE_SITES, SITE_NAMES, SiteName

#: Every linear of the model that a recipe may name.
ALL_SITES: tuple[SiteName, ...] = (*SITE_NAMES, "ada_lin", *SINGLE_SITES)


class LayerSpec(BaseModel):
    """Quantizers of one kind of linear; None is float."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    weight: QuantizerSpec | None = None
    input: QuantizerSpec | None = None


#: Measures of the damage that a linear's quantization does (`sensitivity`).
SensitivityKind = Literal["kl", "content", "quality", "output", "relevance", "lim", "zd"]


class MixedGroup(BaseModel):
    """Linears whose damage is measured alike and compared with each other only.

    Attributes:
        sites: the linears.
        sensitivity: as `MixedSpec.sensitivity`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    sites: tuple[SiteName, ...]
    sensitivity: SensitivityKind


class MixedSpec(BaseModel):
    """Formats to choose from for each linear of each block, and what limits the choice.

    Attributes:
        choices: name -> linear -> quantizers. All name the same block linears.
        budget: one of "bits" (mean bits of a weight's code), "bytes" (weights with their scales,
            read once), "luts" (mean LUTs of the multiplier that a product needs).
        sensitivity: "kl" of the model's output, over the tokens of coarse scales ("content") or
            fine ones ("quality"); "output" error of the linear; or the rankings "relevance" for the
            class (`calibration.relevance`), "lim" and "zd".
        groups: linears with a measure and a share of the budget of their own; default one group.
        split: "even", each group's share is that of its weights; "search", of two groups several
            shares are tried and the one with the smallest KL of the whole model is taken.
        solver: "programme" finds the smallest damage, "greedy" one change after the other.
        samples: calibration samples for KL.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    choices: dict[str, dict[SiteName, LayerSpec]]
    budget: dict[Literal["bits", "bytes", "luts"], float]
    sensitivity: SensitivityKind = "output"
    groups: tuple[MixedGroup, ...] = ()
    split: Literal["even", "search"] = "even"
    solver: Literal["programme", "greedy"] = "programme"
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
        named = [site for group in self.groups for site in group.sites]
        if self.groups and (set(named) != set(SITE_NAMES) or len(named) != len(SITE_NAMES)):
            raise ValueError(
                f"groups name {', '.join(named)}; each of {', '.join(SITE_NAMES)} must be in one"
            )
        if self.split == "search" and len(self.groups) != 2:
            raise ValueError(f"split: search needs two groups, not {len(self.groups)}")
        for name, specs in self.choices.items():
            for site, spec in specs.items():
                if spec.weight is None or ("luts" in self.budget and spec.input is None):
                    raise ValueError(f"choices.{name}.{site}: weight (and input) need a quantizer")
        return self

    def kind_of(self, name: SiteName) -> SensitivityKind:
        """How the damage of a linear is measured."""
        own = [group.sensitivity for group in self.groups if name in group.sites]
        return own[0] if own else self.sensitivity

    @property
    def kinds(self) -> tuple[SensitivityKind, ...]:
        """The measures that are used."""
        return tuple(dict.fromkeys(self.kind_of(name) for name in SITE_NAMES))

    @property
    def budget_item(self) -> tuple[str, float]:
        """(unit, limit)."""
        return next(iter(self.budget.items()))

    @property
    def limit(self) -> float:
        """The budget's number."""
        return self.budget_item[1]


class TuneSpec(BaseModel):
    """How a model is tuned, as recipes write it.

    Attributes:
        steps: of Adam.
        batch: rows of a step: half as many samples, each with both guidance halves.
        scales: rate of the logarithms of weight scales; 0 leaves scales alone.
        biases: rate of biases, relative to the mean size of the layer's; 0 leaves biases alone.
        weights: rate of what is rounded to the weights' integers, relative to the mean size of the
            layer's weights; 0 leaves the integers as they are.
        sites: linears that are tuned, default all; QuEST (arXiv:2402.03666) tunes AdaLN, where the
            time steps of its models enter, and attention.
        rank: 0 trains what is rounded to the integers itself, more a change of it that is a product
            of two matrices of this rank (EfficientDM, arXiv:2310.03270), merged before rounding.
        guidance: how much the divergence of the guided logits counts, beside that of both halves.
        direction: of the guided divergence. "forward" asks the quantized model for all that the
            float model draws; "reverse" for nothing that the float model would not draw (MiniLLM,
            arXiv:2306.08543, section 2.1), which errors at high guidance make it do.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    steps: int = Field(default=80, ge=1)
    batch: int = Field(default=16, ge=2, multiple_of=2)
    scales: float = Field(default=0.003, ge=0)
    biases: float = Field(default=0.01, ge=0)
    weights: float = Field(default=0.0, ge=0)
    sites: tuple[SiteName, ...] | None = None
    rank: int = Field(default=0, ge=0)
    guidance: float = Field(default=0.0, ge=0)
    direction: Literal["forward", "reverse"] = "forward"

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.rank and not self.weights:
            raise ValueError(f"rank = {self.rank}: it changes weights; give their rate, `weights`")
        return self

    def tunes(self, name: SiteName) -> bool:
        """Whether a linear is tuned."""
        return self.sites is None or name in self.sites
