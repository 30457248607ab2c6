# SPDX-License-Identifier: Apache-2.0
"""Starts the words of the second pass, in order, as soon as what they need is known."""

from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from lutvar.contract.accelerator import AcceleratorConfig
from lutvar.contract.widths import WORDS
from lutvar.hw.port_types import Stream, View

from .slots import GROUP_WORD, TURN_BITS, group_ends, row_words, slot_layout


def statistics_layout() -> data.StructLayout:
    """What normalises a row: two float32."""
    return data.StructLayout({"mean": 32, "root": 32})


class RowIssue(wiring.Component):
    """Pops one word in each cycle: of a norm row when its statistics are there, else at once.

    Args:
        alone_first: a group starts only when `alone`.
    """

    accepted: Signal  #: in: instructions accepted so far, modulo 4
    slot: View  #: in: operands of the instruction that `turn` names
    turn: Signal  #: out: instructions issued completely, modulo 4
    some: Signal  #: in: the ring has a word
    room: Signal  #: in: there is a place for the word's result
    alone: Signal  #: in: all words before it are written; looked at only when `alone_first`
    statistics: Stream  #: in: of each norm row, in order
    issue: Signal  #: out: a word is popped
    word: Signal  #: out: its position in the row
    last: Signal  #: out: it is the instruction's last
    mean: Signal  #: out: of its row, one cycle later; float32
    root: Signal  #: out: of its row, one cycle later; float32

    def __init__(self, config: AcceleratorConfig, *, alone_first: bool) -> None:
        self.alone_first = alone_first
        super().__init__(
            {
                "accepted": In(TURN_BITS),
                "slot": In(slot_layout()),
                "turn": Out(TURN_BITS),
                "some": In(1),
                "room": In(1),
                "alone": In(1),
                "statistics": In(stream.Signature(statistics_layout())),
                "issue": Out(1),
                "word": Out(range(row_words(config))),
                "last": Out(1),
                "mean": Out(32),
                "root": Out(32),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        slot = self.slot
        word = Signal(len(self.word))
        first = Signal(init=1)
        rows = Signal(len(slot.last_row))  # issued
        # As in the receiver: one cycle late, and in time for the next word that asks.
        last_group = Signal()
        last_row = Signal()
        begin = first & slot.norm
        # The next row's statistics, in a register: the queue's ready must not depend on `may`.
        row_statistics = Signal.like(self.statistics.payload, reset_less=True)
        has_statistics = Signal()
        may = (self.turn != self.accepted) & self.room & self.some
        if self.alone_first:
            may &= self.alone | word[:GROUP_WORD].any()
        last_word = Signal()
        m.d.comb += [
            self.issue.eq(may & (~begin | has_statistics)),
            self.statistics.ready.eq(~has_statistics),
            self.word.eq(word),
            last_word.eq(last_group & (word[:GROUP_WORD] == WORDS - 1)),
            self.last.eq(last_word & last_row),
        ]
        m.d.sync += [
            last_group.eq(group_ends(word, slot.last_group)),
            last_row.eq(rows == slot.last_row),
        ]
        with m.If(~has_statistics):
            m.d.sync += [
                row_statistics.eq(self.statistics.payload),
                has_statistics.eq(self.statistics.valid),
            ]
        with m.Elif(begin & self.issue):
            m.d.sync += has_statistics.eq(0)
        with m.If(begin):
            m.d.sync += Cat(self.mean, self.root).eq(row_statistics)
        with m.If(self.issue):
            m.d.sync += [word.eq(Mux(last_word, 0, word + 1)), first.eq(last_word)]
            with m.If(last_word):
                m.d.sync += rows.eq(rows + 1)
            with m.If(self.last):
                m.d.sync += [rows.eq(0), self.turn.eq(self.turn + 1)]
        return m
