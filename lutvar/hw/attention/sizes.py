# SPDX-License-Identifier: Apache-2.0
"""Widths of the attention datapath, derived from the configuration."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from lutvar.contract.accelerator import HEAD_DIM, AcceleratorConfig
from lutvar.contract.functions import EXP2_ONE
from lutvar.hw.units.dot import make_dot
from lutvar.hw.units.product import ActivationRecode, WeightRecode, make_product
from lutvar.hw.units.product_design import ProductDesign
from lutvar.quant.formats import NumberFormat

from . import packed_dot
from .packed_dot import PackedDot, PackedOperand

SCORE = 19  #: bits of a score, two's complement, units of 2**-10
PROBABILITY = EXP2_ONE + 1  #: bits of p: 0 .. 2**15
WEIGHT = 15  #: bits of w: at most (2**15 * 2047) >> 11
WEIGHT_TOP = ((1 << EXP2_ONE) * 2047) >> 11
SUM = 28  #: bits that the sum of the p is normalised to
RECIPROCAL = 17  #: bits of R
SIGNIFICAND, EXPONENT = 11, 5  #: of an FP16 pattern
LIMIT = 6  #: bits of the largest normalising shift of a result

#: Scores that the ring holds beyond one block's: the score phase of the next block runs ahead of
#: the value phase by its own latency and by what the value phase waits for the results.
RING_SLACK = 128
BLOCKS = 4  #: blocks between the start of their score phase and the start of their value phase


@dataclass(frozen=True)
class AttentionSizes:
    """Sizes of the unit.

    Attributes:
        rows: query rows that share a pass over the keys (R).
        max_keys: largest number of keys.
        fmt: format of all codes.
        pipelined: False: one key at a time in each phase.
        score_form: dot product q * k from product tables ("table") or in multipliers ("dsp").
    """

    rows: int
    max_keys: int
    fmt: NumberFormat
    pipelined: bool = True
    score_form: Literal["table", "dsp"] = "table"

    @classmethod
    def of(
        cls, config: AcceleratorConfig, score_form: Literal["table", "dsp"] = "table"
    ) -> AttentionSizes:
        return cls(config.attention_rows, config.max_keys, config.kv, config.pipelined, score_form)

    @property
    def design(self) -> ProductDesign:
        """The lane of the dot product q * k."""
        return make_product(self.fmt, self.fmt, None)

    @property
    def dot_latency(self) -> int:
        """Cycles from the operands to D."""
        if self.score_form == "dsp":
            return packed_dot.LATENCY
        # Products, an adder tree, one correction.
        return self.design.latency + (HEAD_DIM - 1).bit_length() + 1

    def make_dot(self) -> Any:
        """The dot product of a row: ``activations`` (query), ``weights`` (key), ``sum``."""
        if self.score_form == "dsp":
            return PackedDot(self.code_bits, self.design.sum_bits(HEAD_DIM))
        return make_dot(self.design, HEAD_DIM)

    def make_operands(self) -> tuple[Any, Any]:
        """Units that turn ``codes`` of a query and of a key into ``operand``; latency 1."""
        if self.score_form == "dsp":
            return (
                PackedOperand(self.fmt, self.code_bits, key=False),
                PackedOperand(self.fmt, self.code_bits, key=True),
            )
        return ActivationRecode(self.design, HEAD_DIM), WeightRecode(self.design, HEAD_DIM)

    @property
    def operand_bits(self) -> tuple[int, int]:
        """Bits of the operands of a query and of a key."""
        if self.score_form == "dsp":
            return HEAD_DIM * self.code_bits, HEAD_DIM * self.code_bits
        design = self.design
        return HEAD_DIM * (design.activation_width + 1), HEAD_DIM * (design.weight_width + 1)

    @property
    def load_steps(self) -> int:
        """The query's operand arrives in so many equal parts, one a cycle, lowest first."""
        return packed_dot.CHAIN if self.score_form == "dsp" else 1

    @property
    def top(self) -> int:
        """M: the grid integer of the largest code."""
        return self.fmt.positive.top

    @property
    def code_bits(self) -> int:
        """Bits of a decoded code, two's complement."""
        return self.top.bit_length() + 1

    @property
    def ring(self) -> int:
        """Scores of each row that are kept."""
        return self.max_keys + RING_SLACK

    @property
    def sum_bits(self) -> int:
        """Bits of S."""
        return (self.max_keys << EXP2_ONE).bit_length()

    @property
    def magnitude_bits(self) -> int:
        """Bits of ``|A_d|``."""
        return (self.max_keys * WEIGHT_TOP * self.top).bit_length()

    @property
    def product_bits(self) -> int:
        """Bits of ``|A_d| * R``."""
        return self.magnitude_bits + RECIPROCAL

    @cached_property
    def divider(self) -> tuple[int, int, int]:
        """(mu, q, z) of section 11: M = mu * 2**q, mu odd, 2**z >= mu."""
        q = (self.top & -self.top).bit_length() - 1
        mu = self.top >> q
        if mu not in (3, 15):
            raise ValueError(f"{self.fmt.name}: no reciprocal for M = {self.top}")
        return mu, q, (mu - 1).bit_length()

    @property
    def limit_offset(self) -> int:
        """``limit - E - zeros``, where a result is ``(|A| R) << shift`` with ``shift <= limit``.

        The limit leaves the place value of the smallest subnormal at the lowest fraction bit;
        ``zeros`` are those above the highest set bit of S in ``sum_bits`` bits.
        """
        _, q, z = self.divider
        return self.product_bits + 13 + (11 - 25 - q - (43 + z)) + SUM - self.sum_bits

    def __post_init__(self) -> None:
        # The smallest limit must not be negative: then a result would have to move right.
        if 1 + self.limit_offset < 0:
            raise ValueError(f"{self.fmt.name} with {self.max_keys} keys: results out of range")
