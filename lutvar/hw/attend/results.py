# SPDX-License-Identifier: Apache-2.0
"""Results phase: weighted sums divided by the sums of weights, as beats of FP16."""

from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal, Value, unsigned
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from lutvar.contract.accelerator import LANES
from lutvar.hw.axi.queue import WideQueue
from lutvar.hw.links import BEAT
from lutvar.hw.port_types import Stream
from lutvar.hw.units.pipeline import data_register, delay
from lutvar.hw.verilog import place

from . import reciprocal, result_lane
from .reciprocal import Reciprocal
from .result_lane import ResultLane
from .sizes import EXPONENT, LIMIT, AttentionSizes
from .value_row import QUARTERS
from .values import KEPT, SUMS_LATENCY, TOTAL_LATENCY, select_latency

BEATS_A_ROW = 2  #: of 64 FP16 values


class ResultPhase(wiring.Component):
    """Divides the sums of a block, 16 in each cycle, from a fixed time after its last key.

    `ready` keeps the ends of blocks far enough apart: `interval(n)` cycles after a block of n
    rows, and room for the results of a whole block.
    """

    ready: Signal  #: out: another block may end (see below)
    ended: Signal  #: in: the last key of a block is taken in this cycle
    #: in: `TOTAL_LATENCY` cycles later: `totals`, `rows` and `exponent` are of this block
    done: Signal
    totals: Signal  #: in: S of all rows, with `done`
    rows: Signal  #: in: rows of the block, with `done`
    exponent: Signal  #: in: E of the block, with `done`
    select: Signal  #: out: one-hot row of the sums to show
    quarter: Signal  #: out: which 16 columns of it
    word: Signal  #: in: these sums, two's complement, `select_latency` cycles later
    beats: Stream  #: out: results, two beats for each row
    active: Signal  #: out: a word of results is computed in this cycle

    def __init__(self, sizes: AttentionSizes) -> None:
        self.sizes = sizes
        self.width = sizes.magnitude_bits + 1
        #: Cycles from `done` to `select`: then R arrives in time for the word.
        self.select_delay = (
            1 + reciprocal.LATENCY - result_lane.OPERAND_CYCLE - select_latency(sizes.rows)
        )
        #: Beats in the queue: two blocks.
        self.depth = max(32, 1 << (2 * BEATS_A_ROW * sizes.rows - 1).bit_length())
        if TOTAL_LATENCY + self.select_delay < KEPT:
            raise ValueError("the reciprocal would come before the sums")
        super().__init__(
            {
                "ready": Out(1),
                "ended": In(1),
                "done": In(1),
                "totals": In(sizes.rows * sizes.sum_bits),
                "rows": In(range(sizes.rows + 1)),
                "exponent": In(EXPONENT),
                "select": Out(sizes.rows),
                "quarter": Out(range(QUARTERS)),
                "word": In(LANES * self.width),
                "beats": Out(stream.Signature(unsigned(BEAT))),
                "active": Out(1),
            }
        )

    def interval(self, rows: int) -> int:
        """Cycles from the last key of a block of so many rows to that of the next, at least."""
        return TOTAL_LATENCY + self.select_delay + QUARTERS * rows - SUMS_LATENCY

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        sizes = self.sizes
        active, position = self._sequence(m)

        # S of row 0 for the four cycles of its words, then of row 1, and so on.
        m.submodules.reciprocal = divide = Reciprocal(sizes)
        totals = Signal(sizes.rows * sizes.sum_bits, reset_less=True)
        block_exponent = Signal(EXPONENT, name="largest", reset_less=True)
        with m.If(self.done):
            m.d.sync += [totals.eq(self.totals), block_exponent.eq(self.exponent)]
        with m.Elif(position == QUARTERS - 1):
            m.d.sync += totals.eq(totals[sizes.sum_bits :])
        m.d.comb += divide.total.eq(totals[: sizes.sum_bits])
        largest = delay(m, block_exponent, reciprocal.LATENCY - 1, "largest_line")
        limit = Signal(LIMIT, reset_less=True)
        m.d.sync += limit.eq(largest + divide.zeros + sizes.limit_offset)

        lanes = []
        for index in range(LANES):
            lane = ResultLane(sizes)
            place(m, platform, f"lane{index}", lane, "attend_result_lane")
            m.d.comb += [
                lane.total.eq(self.word[index * self.width : (index + 1) * self.width]),
                lane.reciprocal.eq(divide.reciprocal),
                lane.limit.eq(limit),
            ]
            lanes.append(lane.value)
        self._collect(m, Cat(*lanes), active, position)
        return m

    def _sequence(self, m: Module) -> tuple[Signal, Signal]:
        """Words of a block, from one cycle after `done`: whether there is one, its quarter."""
        sizes = self.sizes
        active = Signal()
        position = Signal(range(QUARTERS))
        row = Signal(range(sizes.rows))
        left = Signal(range(sizes.rows + 1))
        m.d.sync += position.eq(position + active)
        with m.If(self.done):
            m.d.sync += [active.eq(1), row.eq(0), left.eq(self.rows)]
        with m.Elif(active & (position == QUARTERS - 1)):
            m.d.sync += [active.eq(left != 1), row.eq(row + 1), left.eq(left - 1)]
        line = delay(m, Cat(row, position), self.select_delay - 2, "select_line")
        valid = delay(m, active, self.select_delay - 2, "select_valid", reset=True)
        row_late, position_late = line[: len(row)], line[len(row) :]
        m.d.sync += [
            self.select.eq(Cat(*(valid & (row_late == r) for r in range(sizes.rows)))),
            self.quarter.eq(position_late),
        ]

        # When the next block may end: its sums replace this one's.
        blocked = Signal()
        gap = Signal(range(self.interval(sizes.rows)))
        room = Signal()
        self.free = free = Signal(range(self.depth + 1), init=self.depth)
        block_beats = BEATS_A_ROW * sizes.rows
        m.d.comb += self.ready.eq(~blocked & (gap == 0) & room)
        m.d.sync += room.eq(free >= block_beats)
        with m.If(gap != 0):
            m.d.sync += gap.eq(gap - 1)
        with m.If(self.ended):
            m.d.sync += blocked.eq(1)
        with m.If(self.done):
            m.d.sync += [
                blocked.eq(0),
                gap.eq(self.interval(0) - TOTAL_LATENCY - 1 + QUARTERS * self.rows),
            ]
        return active, position

    def _collect(self, m: Module, word: Value, active: Value, position: Value) -> None:
        """Two words make a beat; beats queue, their places set aside when their block ended."""
        sizes = self.sizes
        cycles = self.select_delay - 1 + select_latency(sizes.rows) + result_lane.LATENCY
        valid = delay(m, active, cycles, "word_valid", reset=True)
        odd = delay(m, position[0], cycles, "word_odd")
        low = Signal(len(word), reset_less=True)
        m.submodules.queue = queue = WideQueue(BEAT, self.depth)
        with m.If(valid & ~odd):
            m.d.sync += low.eq(word)
        data = data_register(m, queue.data, "pushed")
        m.d.sync += [queue.push.eq(valid & odd), data.eq(Cat(low, word))]
        m.d.comb += self.active.eq(valid)
        wiring.connect(m, queue.o, wiring.flipped(self.beats))
        # A block takes room for R rows when it ends, and gives back what it does not need.
        # All a cycle late: the next block cannot end before `done`.
        block_beats = BEATS_A_ROW * sizes.rows
        freed = Signal()
        ended = Signal()
        returned = Signal(range(block_beats + 1))
        m.d.sync += [
            freed.eq(queue.taken),
            ended.eq(self.ended),
            returned.eq(Mux(self.done, block_beats - BEATS_A_ROW * self.rows, 0)),
            self.free.eq(self.free + freed + returned - Mux(ended, block_beats, 0)),
        ]
