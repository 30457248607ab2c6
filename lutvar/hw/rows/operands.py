# SPDX-License-Identifier: Apache-2.0
"""Activation banks of a row group: words in, operands out to the dot products."""

from typing import Any

from amaranth.hdl import Cat, Module, Signal, Value, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from lutvar.contract.accelerator import ROW_GROUP, AcceleratorConfig
from lutvar.hw.links import WORDS
from lutvar.hw.units.memory import READ_LATENCY, ChunkMemory

from .chain import load_layout, operand_words, word_bits

#: Words that hold the two bytes of a scale: plain or positive, negative.
_SCALE_WORDS, _NEGATIVE_WORDS = (0, 1), (2, 3)


class GroupOperands(wiring.Component):
    """Words of 16 codes for each of 16 rows, written one row at a time, read for all rows at once.

    Members:
        write_valid, write_row, write_address, write_data: a word of one row.
        load_valid, load: read a word of all rows.
        word_valid, word: ``load``, ``LATENCY`` cycles later, and codes: what was read, row 0
            lowest.
        start: the scales of the words loaded since the last start become current, from the next
            cycle on.
        scales: current FP16 scale of each row, of the half that was loaded.

    Cost: ``word_bits`` x ``operand_words`` of memory for each row: one UltraRAM of 72 bits for
    4-bit codes.
    """

    LATENCY = READ_LATENCY

    def __init__(self, config: AcceleratorConfig) -> None:
        self.config = config
        super().__init__(
            {
                "write_valid": In(1),
                "write_row": In(range(ROW_GROUP)),
                "write_address": In(range(operand_words(config))),
                "write_data": In(word_bits(config)),
                "load_valid": In(1),
                "load": In(load_layout(config)),
                "word_valid": Out(1),
                "word": Out(load_layout(config)),
                "codes": Out(ROW_GROUP * (word_bits(config) - 8)),
                "start": In(1),
                "scales": Out(data.ArrayLayout(unsigned(16), ROW_GROUP)),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        bits = word_bits(self.config)
        m.submodules.store = store = ChunkMemory(ROW_GROUP * bits, bits, operand_words(self.config))
        m.d.comb += [
            store.write_en.eq(self.write_valid),
            store.write_addr.eq(self.write_address),
            store.write_chunk.eq(self.write_row),
            store.write_data.eq(self.write_data),
            store.read_addr.eq(self.load.address),
        ]
        valid = Signal(self.LATENCY)
        travel = Signal(data.ArrayLayout(self.load.shape(), self.LATENCY), reset_less=True)
        m.d.sync += [
            valid.eq(Cat(self.load_valid, valid)),
            Value.cast(travel).eq(Cat(Value.cast(self.load), Value.cast(travel))),
        ]
        words = [store.read_data[row * bits : (row + 1) * bits] for row in range(ROW_GROUP)]
        m.d.comb += [
            self.word_valid.eq(valid[-1]),
            self.word.eq(travel[self.LATENCY - 1]),
            self.codes.eq(Cat(*(word[:-8] for word in words))),
        ]

        negative = self.word.dual & self.word.negative
        bytes_read = Cat(*(word[-8:] for word in words))
        low = Signal(8 * ROW_GROUP, reset_less=True)
        high = Signal(8 * ROW_GROUP, reset_less=True)
        take = Signal(2)
        assert max(*_SCALE_WORDS, *_NEGATIVE_WORDS) < WORDS
        for half in range(2):
            plain, other = _SCALE_WORDS[half], _NEGATIVE_WORDS[half]
            wanted = (negative & (self.word.word == other)) | (
                ~negative & (self.word.word == plain)
            )
            m.d.comb += take[half].eq(self.word_valid & wanted)
        with m.If(take[0]):
            m.d.sync += low.eq(bytes_read)
        with m.If(take[1]):
            m.d.sync += high.eq(bytes_read)
        with m.If(self.start):
            m.d.sync += Value.cast(self.scales).eq(
                Cat(
                    *(
                        Cat(low[8 * row : 8 * row + 8], high[8 * row : 8 * row + 8])
                        for row in range(ROW_GROUP)
                    )
                )
            )
        return m
