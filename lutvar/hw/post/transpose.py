# SPDX-License-Identifier: Apache-2.0
"""Blocks of 16 rows x 128 columns: pairs of columns in, parts of rows out."""

from typing import Any

from amaranth.hdl import Cat, Module, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from lutvar.contract.accelerator import LANES, ROW_GROUP
from lutvar.contract.quant_preset import GROUP
from lutvar.hw.links import drain_values
from lutvar.hw.units.memory import READ_LATENCY, ChunkMemory
from lutvar.hw.units.pipeline import delay, valid_line

SLOTS = 8  #: blocks in the buffer; block RAMs of 512 words of 64 bits are used to the full
PAIRS = GROUP // 2  #: pairs of columns in a block
PART = 2 * LANES  #: columns of a part of a row
WORD = 2 * 32  #: bits of a pair of values of a row

assert drain_values().length == 2 * ROW_GROUP, "columns are drained in pairs"
assert LANES == ROW_GROUP == 16, "the rotations need as many rows as pairs in a part"


def rotate(m: Module, value: Value, places: Value, name: str) -> Value:
    """16 words of 64 bits, moved up by `places` words, cyclically; two registers."""
    for part, unit in ((places[:2], 1), (delay(m, places[2:4], 1, f"{name}_high"), 4)):
        moved = Signal(LANES * WORD, name=f"{name}_by{unit}", reset_less=True)
        with m.Switch(part):
            for step in range(4):
                with m.Case(step):
                    at = len(value) - step * unit * WORD
                    m.d.sync += moved.eq(Cat(value[at:], value[:at]))
        value = moved
    return value


class BlockBuffer(wiring.Component):
    """A ring of `SLOTS` blocks, written by columns, read by rows, 32 values in each cycle.

    The two values of a row and a pair of columns are one word, in memory `(row + pair) % 16`, at
    address `pair`: the 16 words of a pair, and 16 adjacent ones of a row, are in different
    memories. Cost: 16 memories of 512 x 64 bits (16 BRAM36) and two rotations of 16 words (2,048
    LUTs each).
    """

    READ_LATENCY = READ_LATENCY + 3

    write: In(1)  #: two columns are written
    write_slot: In(range(SLOTS))  #: the slot
    write_pair: In(range(PAIRS))  #: the pair of columns; pair 63 of a block comes last
    values: In(drain_values())  #: rows 0 to 15 of the first column, then of the second
    written: Out(1)  #: one cycle, when pair 63 of a block was stored; all of it can be read
    read_slot: In(range(SLOTS))  #: slot to read
    read_row: In(range(ROW_GROUP))  #: row to read
    read_part: In(range(GROUP // PART))  #: columns `32 part ..` of it
    part: Out(LANES * WORD)  #: these 32 values, `READ_LATENCY` cycles later

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        columns = (0, ROW_GROUP)
        pairs = Cat(self.values[row + at] for row in range(ROW_GROUP) for at in columns)
        turned = rotate(m, pairs, self.write_pair[:4], "turned")
        write_addr = delay(m, Cat(self.write_pair, self.write_slot), 2, "write_line")
        write = valid_line(m, self.write, 3, "write")
        m.d.sync += self.written.eq(write[1] & write_addr[: len(self.write_pair)].all())

        row = Signal(range(ROW_GROUP), reset_less=True)
        high = Signal(len(self.read_part) + len(self.read_slot), reset_less=True)
        m.d.sync += [row.eq(self.read_row), high.eq(Cat(self.read_part, self.read_slot))]
        words = []
        for k in range(LANES):
            bank = ChunkMemory(WORD, WORD, SLOTS * PAIRS)
            m.submodules[f"bank_{k}"] = bank
            pair = Signal(4, name=f"pair_{k}", reset_less=True)
            m.d.sync += pair.eq(k - self.read_row)
            m.d.comb += [
                bank.write_en.eq(write[1]),
                bank.write_addr.eq(write_addr),
                bank.write_data.eq(turned.word_select(k, WORD)),
                bank.read_addr.eq(Cat(pair, high)),
            ]
            words.append(bank.read_data)
        places = delay(m, (-row)[:4], READ_LATENCY, "row_line")
        m.d.comb += self.part.eq(rotate(m, Cat(*words), places, "part"))
        return m
