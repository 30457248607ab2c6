# SPDX-License-Identifier: Apache-2.0
"""Activation banks of a row group: words in, operands out to the dot products."""

from typing import Any

from amaranth.hdl import Cat, Module, Signal, Value, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from lutvar.contract.accelerator import ROW_GROUP, AcceleratorConfig
from lutvar.contract.widths import WORDS
from lutvar.hw.port_types import View, view_signal
from lutvar.hw.units.memory import READ_LATENCY, ChunkMemory
from lutvar.hw.units.pipeline import data_register, delay, valid_line

from .chain import load_layout, operand_words, word_bits

#: Words that hold the two bytes of a scale: plain or positive, negative.
_SCALE_WORDS, _NEGATIVE_WORDS = (0, 1), (2, 3)


def operand_latency(config: AcceleratorConfig) -> int:
    """Cycles from a load to the words of all rows."""
    return READ_LATENCY + (ROW_GROUP + 1 if config.serial_operands else 0)


def load_interval(config: AcceleratorConfig) -> int:
    """Least cycles from a load to the next one."""
    return ROW_GROUP if config.serial_operands else 1


class GroupOperands(wiring.Component):
    """Words of 16 codes for each of 16 rows, written one row at a time, read for all rows at once.

    Cost: a memory of `word_bits` x 16 `operand_words`: 72 bits for 4-bit codes, so about a
    BRAM36 for each 32 words of the 16 rows. `config.serial_operands`: it is read row by row, and
    the rows are collected in a shift register of 16 words. Otherwise it is 16 times as wide and has
    `operand_words` words, so it takes a BRAM36 for each 512 words of each row.
    """

    write_valid: Signal  #: in: a word of one row is written
    write_row: Signal  #: in: the row
    write_address: Signal  #: in: the word's place
    write_data: Signal  #: in: codes and a byte of the scale
    load_valid: Signal  #: in: read a word of all rows, every `load_interval` cycles at most
    load: View  #: in: which word
    word_valid: Signal  #: out: `load_valid`, `operand_latency` cycles later
    word: View  #: out: `load`, `operand_latency` cycles later
    codes: Signal  #: out: what was read, row 0 lowest; for one cycle
    #: in: the scales of the words loaded since the last start become current, from the next cycle
    #: on
    start: Signal
    scales: View  #: out: current FP16 scale of each row, of the half that was loaded

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
        read = (self._read_rows if self.config.serial_operands else self._read_all)(m, bits)
        words = [read[row * bits : (row + 1) * bits] for row in range(ROW_GROUP)]
        m.d.comb += self.codes.eq(Cat(*(word[:-8] for word in words)))

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
        scales = data_register(m, self.scales, "current_scales")
        with m.If(self.start):
            m.d.sync += Value.cast(scales).eq(
                Cat(
                    *(
                        Cat(low[8 * row : 8 * row + 8], high[8 * row : 8 * row + 8])
                        for row in range(ROW_GROUP)
                    )
                )
            )
        return m

    def _read_all(self, m: Module, bits: int) -> Value:
        """One word of memory holds a word of each row."""
        m.submodules.store = store = ChunkMemory(ROW_GROUP * bits, bits, operand_words(self.config))
        m.d.comb += [
            store.write_en.eq(self.write_valid),
            store.write_addr.eq(self.write_address),
            store.write_chunk.eq(self.write_row),
            store.write_data.eq(self.write_data),
            store.read_addr.eq(self.load.address),
        ]
        valid = valid_line(m, self.load_valid, READ_LATENCY, "valid")
        m.d.comb += [
            self.word_valid.eq(valid[-1]),
            Value.cast(self.word).eq(delay(m, Value.cast(self.load), READ_LATENCY, "load_line")),
        ]
        return store.read_data

    def _read_rows(self, m: Module, bits: int) -> Value:
        """The words of the 16 rows lie one after the other, and are read in this order."""
        depth = ROW_GROUP * operand_words(self.config)
        m.submodules.store = store = ChunkMemory(bits, bits, depth)
        load = view_signal(self.load.shape(), reset_less=True)
        reading = Signal()
        row = Signal(range(ROW_GROUP))
        end = Signal()
        m.d.comb += [
            end.eq(reading & (row == ROW_GROUP - 1)),
            store.write_en.eq(self.write_valid),
            store.write_addr.eq(Cat(self.write_row, self.write_address)),
            store.write_data.eq(self.write_data),
            store.read_addr.eq(Cat(row, load.address)),
        ]
        m.d.sync += reading.eq(self.load_valid | (reading & ~end))
        with m.If(self.load_valid):
            m.d.sync += load.eq(self.load)
        with m.If(reading):
            m.d.sync += row.eq(row + 1)
        # The next word may follow at once; what was read of this one needs its own `load`.
        with m.If(end):
            m.d.sync += self.word.eq(load)
        came = valid_line(m, reading, READ_LATENCY, "came")
        ended = valid_line(m, end, READ_LATENCY + 1, "ended")
        rows = Signal(ROW_GROUP * bits, reset_less=True)
        with m.If(came[-1]):
            m.d.sync += rows.eq(Cat(rows[bits:], store.read_data))
        m.d.comb += self.word_valid.eq(ended[-1])
        return rows
