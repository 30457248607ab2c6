# SPDX-License-Identifier: Apache-2.0
"""Widths of the attention datapath, derived from the configuration."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from lutvar.contract.accelerator import AcceleratorConfig
from lutvar.contract.formats import NumberFormat
from lutvar.contract.functions import EXP2_ONE

from .score_form import ScoreForm

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
        dsp_rows: rows whose dot product q * k is in multipliers; the others have product tables.
    """

    rows: int
    max_keys: int
    fmt: NumberFormat
    pipelined: bool = True
    dsp_rows: int = 0

    @classmethod
    def of(cls, config: AcceleratorConfig) -> AttentionSizes:
        """Sizes of a configuration."""
        return cls(
            config.attention_rows, config.max_keys, config.kv, config.pipelined,
            config.attention_dsp_rows,
        )  # fmt: skip

    def form(self, row: int) -> ScoreForm:
        """Form of a row's dot product q * k."""
        return ScoreForm(self.fmt, row < self.dsp_rows)

    @property
    def forms(self) -> list[ScoreForm]:
        """The forms that some row has."""
        return [*dict.fromkeys(self.form(row) for row in range(self.rows))]

    @property
    def dot_latency(self) -> int:
        """Cycles from the operands to D. Operands of a quicker form than the slowest are late."""
        return max(form.latency for form in self.forms)

    def lag(self, form: ScoreForm) -> int:
        """Cycles that the operands of a form are late."""
        return self.dot_latency - form.latency

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
        """Bits of `|A_d|`."""
        return (self.max_keys * WEIGHT_TOP * self.top).bit_length()

    @property
    def product_bits(self) -> int:
        """Bits of `|A_d| * R`."""
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
        """`limit - E - zeros`, where a result is `(|A| R) << shift` with `shift <= limit`.

        The limit leaves the place value of the smallest subnormal at the lowest fraction bit;
        `zeros` are those above the highest set bit of S in `sum_bits` bits.
        """
        _, q, z = self.divider
        return self.product_bits + 13 + (11 - 25 - q - (43 + z)) + SUM - self.sum_bits

    def __post_init__(self) -> None:
        # The smallest limit must not be negative: then a result would have to move right.
        if 1 + self.limit_offset < 0:
            raise ValueError(f"{self.fmt.name} with {self.max_keys} keys: results out of range")
