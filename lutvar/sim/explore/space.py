# SPDX-License-Identifier: Apache-2.0
"""What is searched: values of an accelerator's fields, clocks, recipes, and the limits to keep."""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from typing_extensions import Self

from lutvar.contract.accelerator import AcceleratorConfig, load_accelerator
from lutvar.contract.names import Name
from lutvar.contract.quant_preset import QuantConfig, load_quant, model_quant
from lutvar.files import json_text
from lutvar.yaml_files import load_named

from .quality import Quality

Value: TypeAlias = bool | int | float | str
#: A candidate: a value for each dimension.
Values = Mapping[str, Value]
#: Dimensions beside the accelerator's fields.
CLOCK, RECIPE = "clock", "recipe"


class ExploreError(ValueError):
    """An exploration that cannot be what was asked for; one line that says what to change."""


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Steps(_Strict):
    """Whole numbers from `low` to `high`, each `step` more than the last."""

    low: int
    high: int
    step: int = Field(default=1, ge=1)

    @model_validator(mode="after")
    def _some(self) -> Self:
        if self.high < self.low:
            raise ValueError(f"high {self.high} is below low {self.low}")
        return self


class Limits(_Strict):
    """Shares of the XCVC1902 that may be used, and what the network-on-chip gives."""

    lut: float = Field(default=0.70, gt=0, le=1)
    dsp: float = Field(default=0.75, gt=0, le=1)
    bram36: float = Field(default=0.80, gt=0, le=1)
    uram: float = Field(default=0.80, gt=0, le=1)
    noc_ports: int = Field(default=28, ge=1, description="units of the network for AXI masters")
    link_gbs: float = Field(default=15.0, gt=0, description="mean GB/s of a port, reads or writes")
    memory_gbs: float = Field(default=68.0, gt=0, description="mean GB/s of all ports")
    max_kl: float | None = Field(default=None, gt=0, description="largest KL of the recipe, nat")


class Space(_Strict):
    """A space of accelerators.

    Attributes:
        base: the accelerator whose other fields all candidates have.
        fields: the fields that differ, each a list of values or `Steps`.
        preset: how the model is quantized where no recipe says it; None: as `model_quant` says of
            the accelerator's own preset. One that the accelerators run.
        clocks: MHz. recipes: names of rows of the results file.
    """

    name: Name
    base: str
    fields: dict[str, list[Value] | Steps]
    preset: str | None = None
    clocks: list[float] = Field(default=[250.0], min_length=1)
    recipes: list[str] = []
    limits: Limits = Limits()

    @field_validator("fields")
    @classmethod
    def _known(cls, value: dict[str, list[Value] | Steps]) -> dict[str, list[Value] | Steps]:
        known = [key for key in AcceleratorConfig.model_fields if key != "name"]
        for key, values in value.items():
            if key not in known:
                raise ValueError(f"{key!r} is no field of an accelerator: {', '.join(known)}")
            if isinstance(values, list) and len(set(map(repr, values))) != len(values):
                raise ValueError(f"{key}: a value is there twice")
            if not values:
                raise ValueError(f"{key}: no value; give one")
        return value

    @field_validator("clocks")
    @classmethod
    def _clock(cls, value: list[float]) -> list[float]:
        if wrong := [c for c in value if not (math.isfinite(c) and c > 0)]:
            raise ValueError(f"a clock of {wrong[0]} MHz; it must be above 0")
        return value

    @property
    def dimensions(self) -> dict[str, list[Value]]:
        """All values of each dimension, in order."""
        found = {key: _listed(values) for key, values in self.fields.items()}
        found[CLOCK] = [*self.clocks]
        if self.recipes:
            found[RECIPE] = [*self.recipes]
        return found

    @property
    def size(self) -> int:
        """Candidates, those that no accelerator can be among them."""
        return math.prod(len(values) for values in self.dimensions.values())

    def candidates(self) -> Iterator[dict[str, Value]]:
        """Every candidate."""
        dimensions = self.dimensions
        for values in itertools.product(*dimensions.values()):
            yield dict(zip(dimensions, values, strict=True))

    def with_values(self, changes: Mapping[str, Sequence[Value]]) -> Space:
        """The space with other values of some fields. Raises ExploreError."""
        try:
            data = self.model_dump()
            data["fields"] |= {key: list(values) for key, values in changes.items()}
            return type(self)(**data)
        except ValidationError as error:
            text = str(error.errors()[0]["msg"]).removeprefix("Value error, ")
            raise ExploreError(f"space {self.name}: {text}") from None

    def contains(self, config: AcceleratorConfig) -> bool:
        """Whether an accelerator is a candidate: other fields are the base's."""
        base = load_accelerator(self.base)
        for key in AcceleratorConfig.model_fields:
            if key == "name" or (self.recipes and key in ("quant", "kv_format")):
                continue
            values = _listed(self.fields[key]) if key in self.fields else [getattr(base, key)]
            if getattr(config, key) not in values:
                return False
        return True

    def config(
        self, values: Values, quality: Mapping[str, Quality], name: str
    ) -> AcceleratorConfig:
        """The accelerator of a candidate.

        A recipe brings the format of the records, and its preset where that of the other fields
        does not run it.

        Raises:
            ValueError: the values exclude each other.
        """
        fields = load_accelerator(self.base).model_dump() | {"name": name}
        fields |= {key: values[key] for key in self.fields}
        if self.recipes:
            recipe = quality[str(values[RECIPE])]
            fields["kv_format"] = recipe.kv_format
            if not load_quant(recipe.preset).runs_in(load_quant(fields["quant"])):
                fields["quant"] = recipe.preset
        return AcceleratorConfig(**fields)

    def model_preset(
        self, values: Values, quality: Mapping[str, Quality], accelerator: str
    ) -> QuantConfig:
        """How a candidate's model is quantized, for an accelerator of preset `accelerator`."""
        name = quality[str(values[RECIPE])].preset if self.recipes else self.preset
        return model_quant(name, accelerator)

    def fingerprint(self) -> str:
        """A hash of everything that the candidates and their limits depend on."""
        base = load_accelerator(self.base).model_dump()
        data = {**self.model_dump(exclude={"name"}), "base": base}
        return hashlib.sha256(json_text(data, sort_keys=True).encode()).hexdigest()


def _listed(values: list[Value] | Steps) -> list[Value]:
    if isinstance(values, Steps):
        return [*range(values.low, values.high + 1, values.step)]
    return values


def load_space(name_or_path: str | Path) -> Space:
    """A shipped space by name, or one from a YAML file. Raises YamlError."""
    space = load_named(Space, "spaces", name_or_path, "space")
    load_accelerator(space.base)
    if space.preset is not None:
        load_quant(space.preset)
    return space
