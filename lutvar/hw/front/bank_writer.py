# SPDX-License-Identifier: Apache-2.0
"""Writes the quantizer's beats to the activation bank."""

from typing import Any

from amaranth.hdl import Cat, Const, Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from lutvar.contract.accelerator import LANES, AcceleratorConfig
from lutvar.contract.widths import WORDS
from lutvar.hw.links import bank_write_layout
from lutvar.hw.port_types import Stream, View
from lutvar.hw.units.quantizer import code_layout

from .slots import GROUP_WORD, TURN_BITS, group_ends, slot_layout


class BankWriter(wiring.Component):
    """Gives each beat of codes its bank, row, word and sections."""

    slot: View  #: in: operands of the instruction that `turn` names
    turn: Signal  #: out: instructions written completely, modulo 4
    codes: Stream  #: in: beats, always taken
    write: View  #: out: words for the bank, registered
    done: Signal  #: out: with the instruction's last word

    def __init__(self, config: AcceleratorConfig) -> None:
        self.config = config
        super().__init__(
            {
                "slot": In(slot_layout()),
                "turn": Out(TURN_BITS),
                "codes": In(stream.Signature(code_layout(LANES, config.quant_config.code_bits))),
                "write": Out(bank_write_layout(config)),
                "done": Out(1),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        slot, codes = self.slot, self.codes.payload
        word = Signal(len(self.write.word))
        row = Signal(len(slot.last_row))
        # Of the last group, of the last row: one cycle late, but it takes 8 words from where they
        # change to the next word that asks.
        last_group, last_row = Signal(), Signal()
        last_word, last = Signal(), Signal()
        scales = Cat(codes.scale, codes.scale_neg, Const(0, 32))
        m.d.comb += [
            self.codes.ready.eq(1),
            last_word.eq(last_group & (word[:GROUP_WORD] == WORDS - 1)),
            last.eq(self.codes.valid & last_word & last_row),
        ]
        m.d.sync += [
            last_group.eq(group_ends(word, slot.last_group)),
            last_row.eq(row == slot.last_row),
            self.write.valid.eq(self.codes.valid),
            self.write.bank.eq(slot.bank),
            self.write.row.eq(slot.row_first + row),
            self.write.word.eq(word),
            self.write.codes.eq(Cat(codes.codes)),
            self.write.scales.eq(scales.word_select(word[:GROUP_WORD], 8)),
            self.write.sections.eq(slot.sections),
            self.done.eq(last),
        ]
        with m.If(self.codes.valid):
            m.d.sync += word.eq(word + 1)
            with m.If(last_word):
                m.d.sync += [word.eq(0), row.eq(row + 1)]
            with m.If(last):
                m.d.sync += [row.eq(0), self.turn.eq(self.turn + 1)]
        return m
