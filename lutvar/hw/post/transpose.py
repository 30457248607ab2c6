# SPDX-License-Identifier: Apache-2.0
"""Blocks of 16 rows x 128 columns: columns in, parts of rows out."""

from typing import Any

from amaranth.hdl import Cat, Module, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from lutvar.contract.accelerator import LANES, ROW_GROUP
from lutvar.contract.config import GROUP
from lutvar.hw.matrix.memory import READ_LATENCY, ChunkMemory
from lutvar.hw.units.float_steps import delay

SLOTS = 4  #: blocks in the buffer; block RAMs of 512 words of 32 bits are used to the full
WORD = 32

assert LANES == ROW_GROUP == 16, "the rotations need as many rows as columns in a part"


def rotate(m: Module, value: Value, places: Value, name: str) -> Value:
    """16 words of 32 bits, moved up by ``places`` words, cyclically; two registers."""
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
    """A ring of ``SLOTS`` blocks, written by columns, read by rows, 16 values in each cycle.

    Members:
        write, write_slot, write_column, values: a column, rows 0 to 15 in order. Column 127
            of a block comes last.
        written: one cycle, when column 127 of a block was stored; all of it can be read.
        read_slot, read_row, read_part: what to read: columns ``16 part ..`` of a row.
        part: these 16 values, ``READ_LATENCY`` cycles later.

    Element (row, column) is in memory ``(row + column) % 16``, at address ``column``: the 16 values
    of a column, and 16 adjacent ones of a row, are in different memories. Cost: 16 memories of
    512 x 32 bits (8 BRAM36) and two rotations of 16 words (1,024 LUTs each).
    """

    READ_LATENCY = READ_LATENCY + 3

    def __init__(self) -> None:
        super().__init__(
            {
                "write": In(1),
                "write_slot": In(range(SLOTS)),
                "write_column": In(range(GROUP)),
                "values": In(ROW_GROUP * WORD),
                "written": Out(1),
                "read_slot": In(range(SLOTS)),
                "read_row": In(range(ROW_GROUP)),
                "read_part": In(range(GROUP // LANES)),
                "part": Out(LANES * WORD),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        turned = rotate(m, self.values, self.write_column[:4], "turned")
        write_addr = delay(m, Cat(self.write_column, self.write_slot), 2, "write_line")
        write = Signal(3)
        m.d.sync += [
            write.eq(Cat(self.write, write)),
            self.written.eq(write[1] & write_addr[: len(self.write_column)].all()),
        ]

        row = Signal(range(ROW_GROUP), reset_less=True)
        high = Signal(len(self.read_part) + len(self.read_slot), reset_less=True)
        m.d.sync += [row.eq(self.read_row), high.eq(Cat(self.read_part, self.read_slot))]
        words = []
        for k in range(LANES):
            bank = ChunkMemory(WORD, WORD, SLOTS * GROUP)
            m.submodules[f"bank_{k}"] = bank
            column = Signal(4, name=f"column_{k}", reset_less=True)
            m.d.sync += column.eq(k - self.read_row)
            m.d.comb += [
                bank.write_en.eq(write[1]),
                bank.write_addr.eq(write_addr),
                bank.write_data.eq(turned.word_select(k, WORD)),
                bank.read_addr.eq(Cat(column, high)),
            ]
            words.append(bank.read_data)
        places = delay(m, (-row)[:4], READ_LATENCY, "row_line")
        m.d.comb += self.part.eq(rotate(m, Cat(*words), places, "part"))
        return m
