# SPDX-License-Identifier: Apache-2.0
"""Validated presets: how to quantize a model.

Presets are YAML files in `lutvar/configs`. Unknown keys are refused with the valid ones listed.
Sizes of the accelerator are in `accelerator`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from typing_extensions import Self

from lutvar.contract.formats.ties import TieRule
from lutvar.yaml_files import YamlError, load_named, shipped

from .errors import ConfigError as ConfigError
from .formats import NumberFormat, get_format
from .names import Name, Seed

_Model = TypeVar("_Model", bound=BaseModel)

GROUP = 128  #: values that share a scale, and lanes of a dot product
BlockSite = Literal["qkv", "proj", "fc1", "fc2"]
#: The linears of a block, in the order they run.
SITE_NAMES: tuple[BlockSite, ...] = get_args(BlockSite)


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class SiteConfig(_Strict):
    """How the input of one linear layer is treated."""

    activation: str = Field(description="number format of the layer's input")
    rotate: bool = Field(
        default=False, description="group-wise Hadamard transform before quantizing"
    )

    @field_validator("activation")
    @classmethod
    def _check_format(cls, value: str) -> str:
        return get_format(value).name

    @property
    def format(self) -> NumberFormat:
        """Format of the site's activations."""
        return get_format(self.activation)


class QuantConfig(_Strict):
    """A quantization preset that the accelerator can run.

    Attributes mirror `lutvar/configs/quant/*.yaml`; groups are always 128 along the input
    dimension.
    """

    name: Name
    weight: str = Field(description="number format of all weights")
    ties: TieRule = TieRule.EVEN
    hadamard_seed: Seed = Field(default=42, description="seed of the shared sign vector")
    sites: dict[str, SiteConfig]

    @field_validator("weight")
    @classmethod
    def _check_format(cls, value: str) -> str:
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
        """Format of the weights."""
        return get_format(self.weight)

    @property
    def code_bits(self) -> int:
        """Bits of a code, of weights and activations alike."""
        return self.weight_format.bits

    @property
    def plain_formats(self) -> tuple[NumberFormat, ...]:
        """Formats of the sites with one scale for a group."""
        return tuple(s.format for s in self.sites.values() if not s.format.dual)

    @property
    def dual_formats(self) -> tuple[NumberFormat, ...]:
        """Formats of the sites with a scale for each sign."""
        return tuple(s.format for s in self.sites.values() if s.format.dual)

    def runs_in(self, build: QuantConfig) -> bool:
        """Whether an accelerator built for a preset runs models of this one.

        Rotation and the choice between the single and the dual format are fields of instructions,
        so only what is wired in counts: code width, formats, ties and the sign vector.
        """
        fixed = ("weight", "ties", "hadamard_seed")
        return (
            all(getattr(self, name) == getattr(build, name) for name in fixed)
            and {f.name for f in self.plain_formats} <= {build.plain_format.name}
            and {f.name for f in self.dual_formats} <= {f.name for f in build.dual_formats}
        )

    @property
    def plain_format(self) -> NumberFormat:
        """The single-scale activation format (that of qkv unless every site is dual)."""
        return self.plain_formats[0] if self.plain_formats else self.weight_format

    @property
    def dual_format(self) -> NumberFormat | None:
        """The format with a scale for each sign; None when no site has one."""
        return self.dual_formats[0] if self.dual_formats else None


def preset_names(kind: Literal["quant", "accelerator"]) -> list[str]:
    """Names of the shipped presets of a kind."""
    return shipped(kind)


def load_config(
    model: type[_Model], kind: Literal["quant", "accelerator"], name_or_path: str | Path
) -> _Model:
    """A checked preset of a kind, by name or from a YAML file. Raises ConfigError."""
    try:
        return load_named(model, kind, name_or_path, f"{kind} preset")
    except YamlError as error:
        raise ConfigError(str(error)) from error


def load_quant(name_or_path: str | Path) -> QuantConfig:
    """Read a quantization preset by name or from a YAML file. Raises ConfigError."""
    return load_config(QuantConfig, "quant", name_or_path)


def model_quant(preset: str | None, accelerator: str) -> QuantConfig:
    """How a model is quantized for an estimate.

    Args:
        preset: chosen by the user; None: the accelerator's, with one pass through fc2 where such a
            preset is shipped.
        accelerator: the accelerator's preset.
    """
    single = f"{accelerator}-single"
    if preset is None:
        preset = single if single in shipped("quant") else accelerator
    return load_quant(preset)
