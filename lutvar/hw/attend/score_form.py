# SPDX-License-Identifier: Apache-2.0
"""Forms of the dot product q * k of a row: product tables in LUTs, or multipliers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lutvar.contract.accelerator import HEAD_DIM
from lutvar.contract.formats import NumberFormat
from lutvar.hw.units.dot import make_dot
from lutvar.hw.units.product import ActivationRecode, WeightRecode, make_product
from lutvar.hw.units.product_design import ProductDesign

from . import packed_dot
from .packed_dot import PackedDot, PackedOperand


@dataclass(frozen=True)
class ScoreForm:
    """One form of the dot product.

    Attributes:
        fmt: format of q and k.
        dsp: 32 DSP58 and about 130 LUTs instead of about 2,700 LUTs for a row (E2M3).
    """

    fmt: NumberFormat
    dsp: bool

    @property
    def module(self) -> str:
        """Suffix of module names."""
        return "_dsp" if self.dsp else ""

    @property
    def design(self) -> ProductDesign:
        """The lane of the tables."""
        return make_product(self.fmt, self.fmt, None)

    @property
    def code_bits(self) -> int:
        """Bits of a decoded code, two's complement."""
        return self.fmt.positive.top.bit_length() + 1

    @property
    def latency(self) -> int:
        """Cycles from the operands to D."""
        if self.dsp:
            return packed_dot.LATENCY
        # Products, an adder tree, one correction.
        return self.design.latency + (HEAD_DIM - 1).bit_length() + 1

    def make_dot(self) -> Any:
        """The dot product of a row: `activations` (query), `weights` (key), `sum`."""
        if self.dsp:
            return PackedDot(self.code_bits, self.design.sum_bits(HEAD_DIM))
        return make_dot(self.design, HEAD_DIM)

    def make_operands(self) -> tuple[Any, Any]:
        """Units that turn `codes` of a query and of a key into `operand`; latency 1."""
        if self.dsp:
            return (
                PackedOperand(self.fmt, self.code_bits, key=False),
                PackedOperand(self.fmt, self.code_bits, key=True),
            )
        return ActivationRecode(self.design, HEAD_DIM), WeightRecode(self.design, HEAD_DIM)

    @property
    def operand_bits(self) -> tuple[int, int]:
        """Bits of the operands of a query and of a key."""
        if self.dsp:
            return HEAD_DIM * self.code_bits, HEAD_DIM * self.code_bits
        design = self.design
        return HEAD_DIM * (design.activation_width + 1), HEAD_DIM * (design.weight_width + 1)

    @property
    def load_steps(self) -> int:
        """The query's operand arrives in so many equal parts, one a cycle, lowest first."""
        return packed_dot.CHAIN if self.dsp else 1
