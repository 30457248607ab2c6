# SPDX-License-Identifier: Apache-2.0
"""Validated presets: how to quantize a model.

Presets are YAML files in `lutvar/configs`. Unknown keys are refused with the valid ones listed.
Sizes of the accelerator are in `accelerator`.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from typing_extensions import Self

from lutvar.contract.formats.ties import TieRule

from .errors import ConfigError as ConfigError
from .formats import NumberFormat, get_format

_Model = TypeVar("_Model", bound=BaseModel)

GROUP = 128  #: values that share a scale, and lanes of a dot product
SITE_NAMES = ("qkv", "proj", "fc1", "fc2")


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class SiteConfig(_Strict):
    """How the input of one linear layer is treated."""

    activation: str = Field(description="number format of the layer's input")
    rotate: bool = Field(
        default=False, description="group-wise Hadamard transform before quantizing"
    )

    @field_validator("activation")
    @classmethod
    def _known(cls, value: str) -> str:
        return get_format(value).name

    @property
    def format(self) -> NumberFormat:
        return get_format(self.activation)


class QuantConfig(_Strict):
    """A quantization preset that the accelerator can run.

    Attributes mirror `lutvar/configs/quant/*.yaml`; groups are always 128 along the input
    dimension.
    """

    name: str
    weight: str = Field(description="number format of all weights")
    ties: TieRule = "even"
    hadamard_seed: int = Field(default=42, description="seed of the shared sign vector")
    sites: dict[str, SiteConfig]

    @field_validator("weight")
    @classmethod
    def _known(cls, value: str) -> str:
        return get_format(value).name

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if set(self.sites) != set(SITE_NAMES):
            raise ValueError(
                f"sites are {sorted(self.sites)}; exactly {sorted(SITE_NAMES)} are needed"
            )
        widths = {s.format.bits for s in self.sites.values()} | {self.weight_format.bits}
        if len(widths) != 1:
            raise ValueError(
                f"formats of {sorted(widths)} bits are mixed; one preset uses one code width"
            )
        if self.weight_format.dual:
            raise ValueError(f"weight format {self.weight} is dual; weights need a single scale")
        kinds = (self.plain_formats, self.dual_formats)
        if any(len({fmt.name for fmt in kind}) > 1 for kind in kinds):
            raise ValueError(
                "at most one single-scale and one dual activation format for each preset"
            )
        for fmt in self.plain_formats:
            for dual in self.dual_formats:
                if fmt.scale_top() != dual.scale_top():
                    raise ValueError(f"{fmt.name} and {dual.name} need the same positive half")
        return self

    @property
    def weight_format(self) -> NumberFormat:
        return get_format(self.weight)

    @property
    def code_bits(self) -> int:
        return self.weight_format.bits

    @property
    def plain_formats(self) -> tuple[NumberFormat, ...]:
        return tuple(s.format for s in self.sites.values() if not s.format.dual)

    @property
    def dual_formats(self) -> tuple[NumberFormat, ...]:
        return tuple(s.format for s in self.sites.values() if s.format.dual)

    @property
    def plain_format(self) -> NumberFormat:
        """The single-scale activation format (that of qkv unless every site is dual)."""
        return self.plain_formats[0] if self.plain_formats else self.weight_format

    @property
    def dual_format(self) -> NumberFormat | None:
        return self.dual_formats[0] if self.dual_formats else None


def _names(kind: str) -> list[str]:
    folder = resources.files("lutvar") / "configs" / kind
    names = (p.name for p in folder.iterdir())
    return sorted(n.removesuffix(".yaml") for n in names if n.endswith(".yaml"))


def preset_names(kind: Literal["quant", "accelerator"]) -> list[str]:
    """Names of the shipped presets of a kind."""
    return _names(kind)


def _read(kind: str, name_or_path: str | Path) -> tuple[Mapping[str, Any], str]:
    path = Path(name_or_path)
    if path.suffix in (".yaml", ".yml"):
        try:
            text, where = path.read_text(), str(path)
        except OSError as error:
            raise ConfigError(f"cannot read config {path}: {error.strerror}") from error
    else:
        if str(name_or_path) not in _names(kind):
            raise ConfigError(
                f"unknown {kind} preset {str(name_or_path)!r}; shipped: {', '.join(_names(kind))} "
                "(or give the path of a .yaml file)"
            )
        where = f"preset {name_or_path}"
        text = (resources.files("lutvar") / "configs" / kind / f"{name_or_path}.yaml").read_text()
    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{where} is not valid YAML: {error}") from error
    if not isinstance(data, dict):
        raise ConfigError(f"{where} holds {type(data).__name__}; a mapping of keys is needed")
    return data, where


def _validate(model: type[_Model], data: Mapping[str, Any], where: str) -> _Model:
    try:
        return model.model_validate(data)
    except ValidationError as error:
        lines = []
        for item in error.errors():
            key = ".".join(str(part) for part in item["loc"]) or "(whole file)"
            if item["type"] == "extra_forbidden":
                owner = SiteConfig if len(item["loc"]) == 3 else model
                valid = ", ".join(owner.model_fields)
                lines.append(f"unknown key {key!r}; valid keys: {valid}")
            else:
                lines.append(f"{key}: {item['msg']} (got {item['input']!r})")
        raise ConfigError(f"{where}: " + "; ".join(lines)) from error


def load_quant(name_or_path: str | Path) -> QuantConfig:
    """Read a quantization preset by name or from a YAML file. Raises ConfigError."""
    data, where = _read("quant", name_or_path)
    return _validate(QuantConfig, data, where)
