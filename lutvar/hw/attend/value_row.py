# SPDX-License-Identifier: Apache-2.0
"""One query row of the value phase: 64 weighted sums of V codes, two in each multiplier.

`w * (c + c' * 2**20)` fits a 27 x 24 multiplier, and what a DSP58 adds up over a block of keys
is `P = A + A' * 2**20`, A and A' the sums of two columns. A grows beyond 20 bits, so P alone does
not tell the two apart: `h = floor(A / 2**20)` is counted beside it. Then `A = h * 2**20 + P mod
2**20` and `A' = floor(P / 2**20) - h`.

The step of h at a key follows from two bits. `floor(P / 2**20)` moves by `w c'` and the step;
`w c'` modulo 4 takes two LUTs, so the step is known modulo 4. It is 0, 1 or 2 where c is positive
and 0, -1 or -2 where it is negative, since `|w c| < 2**21`: the sign of c says which.
"""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Const, Module, Signal, Value, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from lutvar.contract.accelerator import HEAD_DIM, LANES
from lutvar.hw.units.pipeline import valid_line

from .sizes import WEIGHT, WEIGHT_TOP, AttentionSizes

QUARTERS = HEAD_DIM // LANES
PAIRS = HEAD_DIM // 2
STEP = 20  #: place of the upper column
#: Cycles, counted from the one in which w and the codes are here: when `add` says that the key
#: counts, when the product is made from `units`, when `signs` is needed, when the sums have it.
ADD_CYCLE, UNITS_CYCLE, SIGN_CYCLE, SUM_CYCLE = 0, 2, 3, 3
#: Cycles from `capture` to the last of what was kept: the counts of overflows are late.
KEPT_LATENCY = 3


def pack_grid(grid: Value, bits: int) -> Value:
    """Operands of the pairs: the upper of two codes is less by one where the lower is negative.

    Then both only need to be put side by side, the lower one's sign between them.
    """
    parts: list[Value] = []
    for pair in range(PAIRS):
        low, high = grid.word_select(2 * pair, bits), grid.word_select(2 * pair + 1, bits)
        parts += [low, (high - low[-1])[:bits]]
    return Cat(*parts)


def code_units(grid: Value, bits: int) -> Value:
    """The upper code of each pair modulo 4."""
    return Cat(*(grid.word_select(2 * pair + 1, bits)[:2] for pair in range(PAIRS)))


def code_signs(grid: Value, bits: int) -> Value:
    """Whether the lower code of each pair is negative."""
    return Cat(*(grid.word_select(2 * pair, bits)[-1] for pair in range(PAIRS)))


class ValueRow(wiring.Component):
    """`A_d += w * c_d` for the 64 columns of a head, and the finished sums of the last block.

    No handshake; one key in each cycle, but for one cycle between the keys of two blocks.

    Cost: 32 DSP58 with input, product and sum registers; 18 LUTs for each pair of columns, and
    a flip-flop and a quarter of a LUT (a multiplexer of four) for each bit of the snapshot.
    """

    weight: Signal  #: in: w; cycle 0
    grid: Signal  #: in: `pack_grid` of the 64 codes; cycle 0
    add: Signal  #: in: the key counts; cycle `ADD_CYCLE`
    units: Signal  #: in: `code_units`; cycle `UNITS_CYCLE`
    signs: Signal  #: in: `code_signs`; cycle `SIGN_CYCLE`
    #: in: keep the sums of this cycle, which is `SUM_CYCLE` of the block's last key, and start the
    #: next ones at 0. One cycle later there is no key in `SUM_CYCLE`
    capture: Signal
    #: in: show sums of the last block, else zeros; from `KEPT_LATENCY` cycles after `capture` to
    #: the next `capture`
    select: Signal
    quarter: Signal  #: in: which 16 of them to show
    word: Signal  #: out: P and then h of 8 pairs (`split_word`), one cycle after `select`

    def __init__(self, sizes: AttentionSizes) -> None:
        if sizes.top * WEIGHT_TOP >= 1 << STEP + 1:
            raise ValueError(f"{sizes.fmt.name}: a product overflows by more than two")
        self.sizes = sizes
        super().__init__(
            {
                "weight": In(WEIGHT),
                "grid": In(HEAD_DIM * sizes.code_bits),
                "add": In(1),
                "units": In(2 * PAIRS),
                "signs": In(PAIRS),
                "capture": In(1),
                "select": In(1),
                "quarter": In(range(QUARTERS)),
                "word": Out(word_bits(sizes)),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        bits, width = self.sizes.code_bits, sum_bits(self.sizes)
        # Input, product and sum registers of a DSP58. A key that does not count has the weight 0,
        # and sums start at 0, both by the reset of their registers: there is no enable.
        weight = Signal(WEIGHT)
        grid = Signal(len(self.grid), reset_less=True)
        low_weight = Signal(2)  # in step with `units`
        m.d.sync += [weight.eq(0), grid.eq(self.grid), low_weight.eq(weight)]
        with m.If(self.add):
            m.d.sync += weight.eq(self.weight)
        operand = Cat(weight, Const(0, 1)).as_signed()
        late = valid_line(m, self.capture, 2, "late")
        sums, counts = [], []
        for pair in range(PAIRS):
            low, high = grid.word_select(2 * pair, bits), grid.word_select(2 * pair + 1, bits)
            packed = Cat(low, low[-1].replicate(STEP - bits), high).as_signed()
            product = Signal(signed(STEP + bits + WEIGHT), name=f"product{pair}", reset_less=True)
            total = Signal(signed(width), name=f"sum{pair}")
            m.d.sync += [product.eq(operand * packed), total.eq(total + product)]
            with m.If(self.capture):
                m.d.sync += total.eq(0)
            sums.append(total)
            units = self.units.word_select(pair, 2)
            counts.append(self._count(m, pair, total, low_weight, units, late[1]))

        # The snapshot of a quarter lies together: P of its 8 pairs, then h.
        snapshots = []
        share = PAIRS // QUARTERS
        for name, parts, load in (("sums", sums, self.capture), ("counts", counts, late[1])):
            snapshot = Signal(PAIRS * len(parts[0]), name=f"kept_{name}", reset_less=True)
            with m.If(load):
                m.d.sync += snapshot.eq(Cat(*parts))
            snapshots.append((snapshot, share * len(parts[0])))
        with m.If(self.select):
            m.d.sync += self.word.eq(
                Cat(*(snapshot.word_select(self.quarter, part) for snapshot, part in snapshots))
            )
        with m.Else():
            m.d.sync += self.word.eq(0)
        return m

    def _count(
        self, m: Module, pair: int, total: Value, weight: Value, units: Value, clear: Value
    ) -> Signal:
        """h of a pair, two cycles after `total`; `clear`: start at 0."""
        # Where the two bits would be without a step.
        expected = Signal(2, name=f"expected{pair}")
        product = Cat(weight[0] & units[0], (weight[0] & units[1]) ^ (weight[1] & units[0]))
        m.d.sync += expected.eq(total[STEP : STEP + 2] + product)
        with m.If(self.capture):
            m.d.sync += expected.eq(0)
        step = Signal(signed(3), name=f"step{pair}")
        moved = Signal(2, name=f"moved{pair}")
        m.d.comb += moved.eq(total[STEP : STEP + 2] - expected)
        m.d.sync += step.eq(Cat(moved, moved[1] & self.signs[pair]))
        count = Signal(signed(count_bits(self.sizes)), name=f"count{pair}")
        m.d.sync += count.eq(count + step)
        with m.If(clear):
            m.d.sync += count.eq(0)
        return count


def sum_bits(sizes: AttentionSizes) -> int:
    """Bits of P: what lies above A' is not needed."""
    return STEP + sizes.magnitude_bits + 1


def count_bits(sizes: AttentionSizes) -> int:
    """Bits of h."""
    return max(3, sizes.magnitude_bits + 1 - STEP)


def word_bits(sizes: AttentionSizes) -> int:
    """Bits of the word that `ValueRow` shows."""
    return PAIRS // QUARTERS * (sum_bits(sizes) + count_bits(sizes))


def split_word(word: Value, sizes: AttentionSizes) -> Value:
    """The 16 sums of a word, two's complement; a subtraction for each pair. Zeros give zeros."""
    width, share = sizes.magnitude_bits + 1, PAIRS // QUARTERS
    counts = word[share * sum_bits(sizes) :]
    parts: list[Value] = []
    for pair in range(share):
        total = word.word_select(pair, sum_bits(sizes))
        count = counts.word_select(pair, count_bits(sizes)).as_signed()
        low = Cat(total[:STEP], count, count[-1].replicate(width))[:width]
        parts += [low, (total[STEP:].as_signed() - count)[:width]]
    return Cat(*parts)
