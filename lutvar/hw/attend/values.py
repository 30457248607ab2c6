# SPDX-License-Identifier: Apache-2.0
"""Value phase: scores and V records in, sums of weights and weighted sums out."""

from typing import Any

from amaranth.hdl import Cat, Module, Signal, unsigned
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from lutvar.contract.accelerator import HEAD_DIM, LANES
from lutvar.hw.links import BEAT
from lutvar.hw.port_types import Stream, view_signal
from lutvar.hw.units.pipeline import delay
from lutvar.hw.verilog import place

from . import value_row, weight_row
from .records import decode_codes, record_codes, record_scale, scale_parts
from .scores import scored_layout
from .sizes import EXPONENT, SCORE, AttentionSizes
from .value_row import (
    KEPT_LATENCY,
    QUARTERS,
    ValueRow,
    code_signs,
    code_units,
    pack_grid,
    split_word,
)
from .weight_row import WeightRow

#: Cycles from taking a V record to its score, its weight, the sum of weights with it, and the
#: weighted sums with it.
_SCORE = 2
_WEIGHT = _SCORE + weight_row.LATENCY
TOTAL_LATENCY = _SCORE + weight_row.SUM_CYCLE + 1
SUMS_LATENCY = _WEIGHT + value_row.SUM_CYCLE
#: Cycles from taking the last V record of a block until all of its sums may be selected.
KEPT = SUMS_LATENCY + KEPT_LATENCY
#: Cycles from `select` to `word` are this and the levels of a tree of six-input ORs.
SELECT_BASE = 2


def select_latency(rows: int) -> int:
    """Cycles from `select` to `word`."""
    levels = 0
    while rows > 1:
        rows, levels = -(-rows // 6), levels + 1
    return SELECT_BASE + levels


class ValuePhase(wiring.Component):
    """Works through complete blocks: one V record and one score of each row in each cycle.

    A block of L keys takes L + 1 cycles.
    """

    scored: Stream  #: in: blocks whose scores are complete, in the order of the V records
    beats: Stream  #: in: V records
    read: Signal  #: out: the scores of the next key are read in this cycle
    scores: Signal  #: in: R scores, two cycles after `read`
    ready: Signal  #: in: the results phase takes another block's sums: its last key may be taken
    ended: Signal  #: out: the last key of a block is taken in this cycle
    #: out: `TOTAL_LATENCY` cycles later: `totals`, `rows` and `exponent` are of this block, in this
    #: cycle only
    done: Signal
    totals: Signal  #: out: S of all rows, with `done`
    rows: Signal  #: out: rows of the block, with `done`
    exponent: Signal  #: out: E of the block, with `done`
    #: in: one-hot row of the sums to show. The sums of a block are there from `KEPT` cycles after
    #: `ended` until `SUMS_LATENCY` cycles after the next `ended`
    select: Signal
    quarter: Signal  #: in: which 16 columns of it
    word: Signal  #: out: these sums, two's complement, `select_latency` cycles later
    active: Signal  #: out: a record is taken in this cycle

    def __init__(self, sizes: AttentionSizes) -> None:
        self.sizes = sizes
        self.width = sizes.magnitude_bits + 1
        super().__init__(
            {
                "scored": In(stream.Signature(scored_layout(sizes))),
                "beats": In(stream.Signature(unsigned(BEAT))),
                "read": Out(1),
                "scores": In(sizes.rows * SCORE),
                "ready": In(1),
                "ended": Out(1),
                "done": Out(1),
                "totals": Out(sizes.rows * sizes.sum_bits),
                "rows": Out(range(sizes.rows + 1)),
                "exponent": Out(EXPONENT),
                "select": In(sizes.rows),
                "quarter": In(range(QUARTERS)),
                "word": Out(LANES * self.width),
                "active": Out(1),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        sizes = self.sizes
        block = view_signal(scored_layout(sizes), reset_less=True)
        take, first, last = self._control(m, block)
        m.d.comb += [self.read.eq(take), self.ended.eq(take & last), self.active.eq(take)]
        record = Signal(BEAT, reset_less=True)
        m.d.sync += record.eq(self.beats.payload)

        # Valid bits of the keys under way: of any, of the first, of the last of a block.
        flags = Signal(3 * SUMS_LATENCY)
        m.d.sync += flags.eq(Cat(take, take & first, take & last, flags)[: 3 * SUMS_LATENCY])

        def flag(cycle: int, which: int) -> Any:
            return flags[3 * (cycle - 1) + which]

        # Cycle 1: the record; 2: its shift E - e, and the block's maxima, which must not change
        # before the score of the last key of the block before has met its own.
        maxima = Signal(len(block.maxima), reset_less=True)
        significand, exponent = scale_parts(record_scale(record))
        difference = Signal(EXPONENT, name="shift", reset_less=True)
        m.d.sync += [maxima.eq(block.maxima), difference.eq(block.exponent - exponent)]
        significand_cycle = _SCORE + weight_row.SIGNIFICAND_CYCLE
        significand = delay(m, significand, significand_cycle - 1, "significand_line")
        shift = delay(m, difference, _SCORE + weight_row.SHIFT_CYCLE - 2, "shift_line")
        codes = delay(m, record_codes(record, sizes.fmt), _WEIGHT - 3, "codes_line")
        bits = sizes.code_bits
        grid = Signal(HEAD_DIM * bits, reset_less=True)
        packed = Signal(HEAD_DIM * bits, reset_less=True)
        m.d.sync += [
            grid.eq(decode_codes(m, codes, sizes.fmt, bits)),
            packed.eq(pack_grid(grid, bits)),
        ]
        units = delay(m, code_units(grid, bits), 1 + value_row.UNITS_CYCLE, "units_line")
        signs = delay(m, code_signs(grid, bits), 1 + value_row.SIGN_CYCLE, "signs_line")

        totals, words = [], []
        sum_cycle, add_cycle = _SCORE + weight_row.SUM_CYCLE, _WEIGHT + value_row.ADD_CYCLE
        for r in range(sizes.rows):
            weight, row = WeightRow(sizes), ValueRow(sizes)
            place(m, platform, f"weight{r}", weight, "attend_weight_row")
            place(m, platform, f"row{r}", row, "attend_value_row")
            m.d.comb += [
                weight.t.eq(self.scores[r * SCORE : (r + 1) * SCORE]),
                weight.maximum.eq(maxima[r * SCORE : (r + 1) * SCORE]),
                weight.add.eq(flag(sum_cycle, 0)),
                weight.first.eq(flag(sum_cycle, 1)),
                weight.significand.eq(significand),
                weight.shift.eq(shift),
                row.weight.eq(weight.weight),
                row.grid.eq(packed),
                row.units.eq(units),
                row.signs.eq(signs),
                row.add.eq(flag(add_cycle, 0)),
                row.capture.eq(flag(SUMS_LATENCY, 2)),
                row.select.eq(self.select[r]),
                row.quarter.eq(self.quarter),
            ]
            totals.append(weight.total)
            words.append(row.word)
        word = Signal(len(self.word), reset_less=True)
        m.d.sync += word.eq(split_word(self._gather(m, words), sizes))
        m.d.comb += [
            self.done.eq(flag(TOTAL_LATENCY, 2)),
            self.totals.eq(Cat(*totals)),
            Cat(self.rows, self.exponent).eq(
                delay(m, Cat(block.rows, block.exponent), TOTAL_LATENCY, "block_line")
            ),
            self.word.eq(word),
        ]
        return m

    @staticmethod
    def _gather(m: Module, words: list[Any]) -> Any:
        """The word of the selected row: the others show zeros."""
        level = 0
        while len(words) > 1:
            merged = []
            for start in range(0, len(words), 6):
                value = words[start]
                for other in words[start + 1 : start + 6]:
                    value = value | other
                stage = Signal(len(value), name=f"word{level}_{start}", reset_less=True)
                m.d.sync += stage.eq(value)
                merged.append(stage)
            words, level = merged, level + 1
        return words[0]

    def _control(self, m: Module, block: Any) -> tuple[Signal, Signal, Signal]:
        """Which key is taken when: taken, the first, the last of its block."""
        sizes = self.sizes
        left = Signal(range(sizes.max_keys + 1))
        take = Signal()
        first = Signal()
        last = Signal()
        busy = Signal()
        may = Signal()
        if sizes.pipelined:
            m.d.comb += may.eq(1)
        else:
            wait = Signal(range(SUMS_LATENCY + 1))
            m.d.comb += may.eq(wait == 0)
            with m.If(take):
                m.d.sync += wait.eq(SUMS_LATENCY)
            with m.Elif(~may):
                m.d.sync += wait.eq(wait - 1)
        m.d.comb += [
            self.scored.ready.eq(~busy),
            self.beats.ready.eq(busy & may & (~last | self.ready)),
            take.eq(self.beats.valid & self.beats.ready),
        ]
        with m.If(self.scored.valid & self.scored.ready):
            m.d.sync += [
                block.eq(self.scored.payload),
                left.eq(self.scored.payload.keys),
                last.eq(self.scored.payload.keys == 1),
                first.eq(1),
                busy.eq(1),
            ]
        with m.If(take):
            m.d.sync += [left.eq(left - 1), last.eq(left == 2), first.eq(0)]
            with m.If(last):
                m.d.sync += busy.eq(0)
        return take, first, last
