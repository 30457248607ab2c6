# SPDX-License-Identifier: Apache-2.0
"""Splits read beats into 16-value words: vectors, float32 rows, FP16 rows."""

from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal, unsigned
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from lutvar.contract.accelerator import AcceleratorConfig
from lutvar.contract.widths import WORDS
from lutvar.hw.links import BEAT
from lutvar.hw.port_types import Stream, View

from .slots import GROUP_WORD, TURN_BITS, group_ends, row_words, slot_layout


class Receiver(wiring.Component):
    """Beats from the reader to words of 16 values, each with its place in the instruction.

    A beat of FP16 values is two words, a beat of float32 values one; a vector or row is
    `8 * groups` words.

    Args:
        gap: cycles after a float32 row's last word in which no word may follow (it would meet the
            row's own partial sums in the adder tree).

    Latency 1 cycle. Throughput: one word in each cycle, all outputs from registers.
    """

    accepted: Signal  #: in: instructions accepted so far, modulo 4
    slot: View  #: in: operands of the instruction that `turn` names
    turn: Signal  #: out: instructions received completely, modulo 4
    data: Stream  #: in: beats in the order of the requests
    room: Signal  #: in: the ring takes at least 8 more words
    start: Signal  #: in: a row may start
    take: Signal  #: out: as `row`, one cycle earlier
    row: Signal  #: out: the word belongs to a row
    vector: Signal  #: out: the word belongs to a vector
    shift: Signal  #: out: the vector is the second one
    beat: Signal  #: out: 16 float32 values, or 16 FP16 values in the low half
    norm: Signal  #: out: the row is float32
    word: Signal  #: out: position of the word in the row or vector
    last: Signal  #: out: the word is the row's or vector's last
    number: Signal  #: out: slot of the instruction

    def __init__(self, config: AcceleratorConfig, gap: int) -> None:
        self.gap = gap
        super().__init__(
            {
                "accepted": In(TURN_BITS),
                "slot": In(slot_layout()),
                "turn": Out(TURN_BITS),
                "data": In(stream.Signature(unsigned(BEAT))),
                "room": In(1),
                "start": In(1),
                "take": Out(1),
                "row": Out(1),
                "vector": Out(1),
                "shift": Out(1),
                "beat": Out(BEAT),
                "norm": Out(1),
                "word": Out(range(row_words(config))),
                "last": Out(1),
                "number": Out(1),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        slot = self.slot
        pending = Signal()  # the second word of a beat follows
        word = Signal(len(self.word))  # position of the next word
        first = Signal(init=1)  # it is 0
        vectors = Signal(2)  # received, of this instruction
        rows = Signal(len(slot.last_row))  # received, of this instruction
        # Of the last group, of the last row: one cycle late, but it takes 8 words from where they
        # change to the next word that asks.
        last_group = Signal()
        last_row = Signal()
        history = Signal(self.gap)  # bit t: a float32 row's last word was emitted t + 1 cycles ago

        is_vector = slot.norm & ~vectors[1]
        wide = slot.norm & vectors[1]
        may = Signal()
        emit = Signal()
        last = Signal()
        m.d.comb += [
            may.eq(
                (self.turn != self.accepted) & self.room & ~history[-1] & ~pending
                & (self.start | ~first | is_vector)
            ),
            self.data.ready.eq(may),
            emit.eq(pending | may & self.data.valid),
            last.eq(emit & last_group & (word[:GROUP_WORD] == WORDS - 1)),
            self.take.eq(emit & ~is_vector),
        ]  # fmt: skip
        m.d.sync += [
            last_group.eq(group_ends(word, slot.last_group)),
            last_row.eq(rows == slot.last_row),
            history.eq(Cat(last & wide, history)),
            pending.eq(emit & ~pending & ~wide),
            self.row.eq(emit & ~is_vector),
            self.vector.eq(emit & is_vector),
            self.shift.eq(vectors[0]),
            self.norm.eq(slot.norm),
            self.word.eq(word),
            self.last.eq(last),
            self.number.eq(self.turn[0]),
            self.beat.eq(Mux(pending, self.beat[BEAT // 2 :], self.data.payload)),
        ]
        with m.If(emit):
            m.d.sync += [word.eq(word + 1), first.eq(0)]
        with m.If(last):
            m.d.sync += [word.eq(0), first.eq(1)]
            with m.If(is_vector):
                m.d.sync += vectors.eq(vectors + 1)
            with m.Elif(last_row):
                m.d.sync += [vectors.eq(0), rows.eq(0), self.turn.eq(self.turn + 1)]
            with m.Else():
                m.d.sync += rows.eq(rows + 1)
        return m
