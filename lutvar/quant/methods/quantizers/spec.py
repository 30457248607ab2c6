# SPDX-License-Identifier: Apache-2.0
"""How a tensor is quantized, as recipes write it."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from typing_extensions import Self

from lutvar.contract.formats import get_format
from lutvar.quant.formats.scales import ScaleRule
from lutvar.text import TextEnum


class Sharing(TextEnum):
    """Which values share a scale when `group` is not a number."""

    ROW = "row"  #: one scale per token of an input, per output channel of a weight
    TENSOR = "tensor"  #: one scale for all


class ScaleType(TextEnum):
    """How a recipe's scales are rounded."""

    FP32 = "fp32"  #: not at all: amax / largest grid integer in float32
    FP16 = "fp16"  #: to FP16
    POW2 = "pow2"  #: to a power of two, as OCP MX does
    E4M3 = "e4m3"  #: to E4M3 with one float32 for the tensor, as NVFP4 does


class ZeroRule(TextEnum):
    """What an asymmetric range does when all values have one sign."""

    WIDEN = "widen"  #: it is widened until it contains 0
    FREE = "free"  #: it stays; the code of 0 may lie outside of the codes
    CLAMP = "clamp"  #: its width stays, the code of 0 is clamped to the codes; values then saturate


class QuantizerSpec(BaseModel):
    """How a tensor is quantized, as recipes write it.

    Attributes:
        format: a format of the catalogue (E2M1, E2M3, DUAL4, INT4, ...).
        group: values along the last axis that share a scale; "row" for one scale per token (of an
            input) or per output channel (of a weight), "tensor" for one scale in all.
        asymmetric: integers with a zero point between minimum and maximum.
        percentile: the asymmetric range is the best of three percentile pairs (`percentiles`).
        zero: whether the asymmetric range must contain 0.
        by_sign: integers with a scale for each sign, 2**(bits-1) - 1 levels each.
        scale: rule of the scale: absmax in float32 or FP16, power of two (MX), E4M3 (NVFP4).
        clip: factor of the absolute maximum that maps to the end of the grid.
        floor: smallest scale; 0 for none.
        exact_rule: compute with this rule of `formats.scales` exactly instead (slow, except for
            `fpqvar`: its scales are `scale: fp32`, its ties go towards plus infinity).
        half: results are rounded to FP16, as FPQVAR's 6-bit kernels return them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    format: str
    group: int | Sharing = 128
    asymmetric: bool = False
    percentile: bool = False
    zero: ZeroRule = ZeroRule.WIDEN
    by_sign: bool = False
    scale: ScaleType = ScaleType.FP32
    clip: float = Field(default=1.0, gt=0, le=1)
    floor: float = Field(default=0.0, ge=0)
    exact_rule: ScaleRule | None = None
    half: bool = False

    @field_validator("format")
    @classmethod
    def _check_format(cls, value: str) -> str:
        return get_format(value).name

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.asymmetric or self.by_sign) and not self.format.startswith("INT"):
            raise ValueError(f"asymmetric and by_sign need an INT format, not {self.format}")
        if self.asymmetric and (self.by_sign or self.scale != ScaleType.FP32):
            raise ValueError("asymmetric goes with neither by_sign nor another scale than fp32")
        if self.percentile and not self.asymmetric:
            raise ValueError("percentile needs asymmetric: true")
        if self.zero != ZeroRule.WIDEN and (self.percentile or not self.asymmetric):
            raise ValueError(f"zero: {self.zero} needs asymmetric: true, without percentile")
        if self.exact_rule == ScaleRule.FPQVAR and (
            self.asymmetric or self.by_sign or self.scale != ScaleType.FP32 or self.clip != 1
        ):
            raise ValueError(
                "exact_rule: fpqvar goes with absolute maxima alone; leave out asymmetric, "
                "by_sign, scale and clip"
            )
        return self

    @property
    def bits(self) -> int:
        """Bits of a code."""
        return get_format(self.format).bits

    @property
    def two_sided(self) -> bool:
        """Each sign has a scale of its own."""
        return self.by_sign or get_format(self.format).dual

    def scale_bits(self) -> float:
        """Bits of scales for each value, tensor-wide ones left out; a row counts as 0."""
        if not isinstance(self.group, int):
            return 0.0
        each = 8 if self.scale in (ScaleType.POW2, ScaleType.E4M3) else 16
        count = 2 if self.two_sided or self.asymmetric else 1
        return each * count / self.group
