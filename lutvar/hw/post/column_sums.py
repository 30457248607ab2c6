# SPDX-License-Identifier: Apache-2.0
"""S1 and S2 of the columns: sums of results and of their squares (contract, section 14)."""

from collections.abc import Callable
from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from lutvar.contract.accelerator import LANES
from lutvar.contract.column_sums import (
    BITS,
    COLUMN_BYTES,
    MAX_BLOCKS,
    SQUARE_BITS,
    VALUE_BITS,
    SumMode,
)
from lutvar.hw.links import BEAT
from lutvar.hw.units.fp32_to_fixed import MAGNITUDE, Fp32ToFixed
from lutvar.hw.units.memory import READ_LATENCY, SharedMemory
from lutvar.hw.units.pipeline import data_register, delay, register, valid_line
from lutvar.hw.units.ram_style import RamStyle
from lutvar.hw.verilog import place

from .orders import PARTS, Path, job_layout

COLUMNS = BEAT // 8 // COLUMN_BYTES  #: of a beat that SUMS writes
#: Cycles from reading a word of the memory to writing it again.
MODIFY = READ_LATENCY + 2
HALF = SQUARE_BITS // 2  #: of S2, which is added to in two cycles: a whole carry takes too long
#: A word is read again after as many cycles at the earliest: parts of a row enter in order.
AGAIN = PARTS

# A word that is written in the cycle of its reading would be read as neither old nor new.
assert MODIFY < AGAIN, "a sum must be in the memory before its column comes again"


class SumLane(wiring.Component):
    """One result as an integer and its square.

    Latency: `LATENCY` cycles. Throughput: one in each cycle. Cost: a `Fp32ToFixed` and a multiplier
    of 23 bits, one DSP58 (two DSP48).
    """

    LATENCY = Fp32ToFixed.LATENCY + 2

    x: In(32)  #: float32 result
    value: Out(signed(BITS))  #: its integer n
    square: Out(2 * MAGNITUDE)  #: n**2, in the same cycle

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.submodules.fixed = fixed = Fp32ToFixed()
        m.d.comb += fixed.x.eq(self.x)
        product = register(m, fixed.magnitude * fixed.magnitude, "product")
        flipped = Cat(fixed.magnitude ^ fixed.negative.replicate(MAGNITUDE), fixed.negative)
        value = Signal(BITS, name="value_now", reset_less=True)
        m.d.sync += value.eq(flipped + fixed.negative)
        m.d.comb += [
            self.square.eq(register(m, product, "square_now")),
            self.value.eq(register(m, value, "value_later").as_signed()),
        ]
        return m


def word_layout() -> data.StructLayout:
    """Sums of 16 columns."""
    return data.StructLayout(
        {
            "values": data.ArrayLayout(signed(VALUE_BITS), LANES),
            "squares": data.ArrayLayout(SQUARE_BITS, LANES),
        }
    )


class ColumnSums(wiring.Component):
    """Adds results to the sums of their columns, and hands the sums out.

    Every word passes the same line, from `fire` on: what is added and what is handed out keeps the
    order in which it entered. A word is read, added to in two cycles, the upper half of S2 in the
    second one, and written `MODIFY` cycles after it was read; `Issue` lets the same word enter
    again after `AGAIN` cycles at the earliest. A mode BEGIN adds to 0, so the memory needs no
    clearing.

    Latency: `push` `latency` cycles after `fire`. Throughput: 16 results, or a beat of 4 columns,
    in each cycle. Cost: a memory of 128 x 1,696 bits (24 UltraRAM), 16 `SumLane`, 16 adders of 42
    and of 64 bits, a choice of four columns from 16.

    Args:
        results: cycles from `fire` to `results`.
        blocks, lane: whose sums there are, and what makes integers of results; others in proofs.
    """

    fire: Signal  #: in: a part enters (`Issue`)
    job: Any  #: in: what it belongs to, with `fire`
    block: Signal  #: in: block of the instruction, with `fire`
    quarter: Signal  #: in: quarter of the block (COLUMNS), with `fire`
    part: Signal  #: in: part of the row, or beat of the quarter, with `fire`
    results: Signal  #: in: 16 float32 results of a part that entered
    push: Signal  #: out: a beat of sums
    beat: Signal  #: out: the beat

    def __init__(
        self, results: int, blocks: int = MAX_BLOCKS, lane: Callable[[], Any] = SumLane
    ) -> None:
        self.lane = lane
        self.words = blocks * PARTS  # of the memory, each the sums of 16 columns
        #: Cycles from `fire` to the word's address; the integers come with the word.
        self.at_read = results + SumLane.LATENCY - READ_LATENCY
        self.latency = self.at_read + READ_LATENCY + 2
        super().__init__(
            {
                "fire": In(1), "job": In(job_layout()), "block": In(range(blocks)),
                "quarter": In(2), "part": In(range(PARTS)), "results": In(BEAT),
                "push": Out(1), "beat": Out(BEAT),
            }
        )  # fmt: skip

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        job, read = self.job, self.at_read
        m.submodules.memory = memory = SharedMemory(
            word_layout().size, self.words, style=RamStyle.ULTRA
        )
        adds = (job.path == Path.SUM) & (job.sums != SumMode.NONE)
        added = valid_line(m, self.fire & adds, read + MODIFY, "added")
        leaves = self.fire & (job.path == Path.COLUMNS)
        left = valid_line(m, leaves, self.latency, "left")
        is_sum = job.path == Path.SUM
        word = Cat(Mux(is_sum, self.part, Cat(self.part[2], self.quarter)), self.block)
        # An address has a register to itself: the last one of the line.
        address = register(m, delay(m, word, read - 1, "word_line"), "address")
        begin = delay(m, job.sums == SumMode.BEGIN, read + READ_LATENCY, "begin_line")
        m.d.comb += [
            memory.other_addr.eq(address),
            memory.addr.eq(delay(m, address, MODIFY, "address_line")),
            memory.write.eq(added[read + MODIFY - 1]),
        ]

        old = data.View(word_layout(), memory.other_data)
        new: Any = Signal(word_layout(), name="new", reset_less=True)
        begun = register(m, begin, "begun")
        for k in range(LANES):
            lane = self.lane()
            place(m, platform, f"sum_lane_{k}", lane, "post_sum_lane")
            m.d.comb += lane.x.eq(self.results.word_select(k, 32))
            value = Signal(signed(VALUE_BITS), name=f"value_{k}", reset_less=True)
            low = Signal(HALF + 1, name=f"low_{k}", reset_less=True)
            square = old["squares"][k]
            high = register(m, square[HALF:], f"high_{k}")
            more = register(m, lane.square[HALF:], f"more_{k}")
            m.d.sync += [
                value.eq(Mux(begin, 0, old["values"][k]) + lane.value),
                low.eq(Mux(begin, 0, square[:HALF]) + lane.square[:HALF]),
                new["values"][k].eq(value),
                new["squares"][k].eq(Cat(low[:HALF], Mux(begun, 0, high) + more + low[HALF])),
            ]
        m.d.comb += memory.write_data.eq(new)

        # Out: choose four columns, then a register for each step.
        chosen = delay(m, self.part[:2], read + READ_LATENCY, "chosen_line")
        columns = [Cat(_extended(old["values"][k]), old["squares"][k]) for k in range(LANES)]
        beat = data_register(m, self.beat, "beat_register")
        picked = Signal(BEAT, name="picked", reset_less=True)
        with m.Switch(chosen):
            for number in range(LANES // COLUMNS):
                with m.Case(number):
                    group = columns[number * COLUMNS : (number + 1) * COLUMNS]
                    m.d.sync += picked.eq(Cat(*group))
        m.d.sync += beat.eq(picked)
        m.d.comb += self.push.eq(left[-1])
        return m


def _extended(value: Value) -> Value:
    """S1 as 64 bits."""
    sign = value[VALUE_BITS - 1]
    return Cat(value[:VALUE_BITS], sign.replicate(64 - VALUE_BITS))
