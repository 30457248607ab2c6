# SPDX-License-Identifier: Apache-2.0
"""Writes the quantizer's beats to the activation bank."""

from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from lutvar.contract.accelerator import LANES, AcceleratorConfig
from lutvar.contract.widths import WORDS
from lutvar.hw.links import bank_write_layout
from lutvar.hw.port_types import Stream, View
from lutvar.hw.units.quantizer import code_layout

from .slots import TURN_BITS, slot_layout


class BankWriter(wiring.Component):
    """Gives each beat of codes its bank, row, word and sections.

    Beats of term 1 and of term 2 come in an order of their own each. Term 2 ends an instruction of
    two terms; beats of the next one may come before.
    """

    slot: View  #: in: operands of the instruction that `turn` names
    turn: Signal  #: out: of the beat that is here: instructions written completely, modulo 4
    codes: Stream  #: in: beats, always taken
    write: View  #: out: words for the bank, registered
    done: Signal  #: out: with the instruction's last word

    def __init__(self, config: AcceleratorConfig) -> None:
        self.config = config
        super().__init__(
            {
                "slot": In(slot_layout()),
                "turn": Out(TURN_BITS),
                "codes": In(
                    stream.Signature(
                        code_layout(LANES, config.quant_config.code_bits, config.input_terms > 1)
                    )
                ),
                "write": Out(bank_write_layout(config)),
                "done": Out(1),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        slot, codes = self.slot, self.codes.payload
        two = self.config.input_terms > 1
        second = codes.second if two else Const(0, 1)
        places = [_Place(self, name) for name in ("first", "second")[: 1 + two]]
        word, row, turn = (
            Mux(second, getattr(places[-1], name), getattr(places[0], name))
            for name in ("word", "row", "turn")
        )
        last_word = Signal()
        last = Signal()
        scales = Cat(codes.scale, codes.scale_neg, Const(0, 32))
        whole = Cat(Const(WORDS - 1, 3), slot.last_group)[: len(self.write.word)]
        twice = Cat(word[:3], second, word[3:])[: len(self.write.word)]
        m.d.comb += [
            self.turn.eq(turn),
            self.codes.ready.eq(1),
            last_word.eq(word == whole),
            last.eq(self.codes.valid & last_word & (row == slot.last_row)),
        ]
        ends = last & (second | ~slot.terms) if two else last
        m.d.sync += [
            self.write.valid.eq(self.codes.valid),
            self.write.bank.eq(slot.bank),
            self.write.row.eq(slot.row_first + row),
            self.write.word.eq(Mux(slot.terms, twice, word) if two else word),
            self.write.codes.eq(Cat(codes.codes)),
            self.write.scales.eq(scales.word_select(word[:3], 8)),
            self.write.sections.eq(slot.sections),
            self.done.eq(ends),
        ]
        for number, place in enumerate(places):
            mine = self.codes.valid & (second == number)
            with m.If(mine):
                m.d.sync += place.word.eq(word + 1)
                with m.If(last_word):
                    m.d.sync += [place.word.eq(0), place.row.eq(row + 1)]
            # An instruction without term 2 has none to wait for.
            with m.If(last & (mine if number == 0 else mine | ~slot.terms)):
                m.d.sync += [place.row.eq(0), place.turn.eq(turn + 1)]
        return m


class _Place:
    """Where beats of a term go next."""

    def __init__(self, writer: BankWriter, name: str) -> None:
        self.word = Signal(len(writer.write.word), name=f"{name}_word")
        self.row = Signal(len(writer.slot.last_row), name=f"{name}_row")
        self.turn = Signal(TURN_BITS, name=f"{name}_turn")
