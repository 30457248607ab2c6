# SPDX-License-Identifier: Apache-2.0
"""Ring of FP16 words between the two passes over a row."""

from typing import Any

from amaranth.hdl import Module, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from lutvar.contract.accelerator import LANES
from lutvar.hw.units.memory import READ_LATENCY, ChunkMemory

WIDTH = LANES * 16
#: Words that may be reserved after `room` was computed, and some more.
MARGIN = 8


class WordRing(wiring.Component):
    """Queue of words of 16 FP16 values, in block memory, whose places are set aside in advance.

    Rows follow each other without gaps, so many short rows fit where few long ones do.

    Args:
        depth: words, a power of two.
    """

    READ_LATENCY = READ_LATENCY

    reserve: In(1)  #: a word will come
    room: Out(1)  #: at least `MARGIN` places were free 2 cycles ago
    push: In(1)  #: the word comes
    data: In(WIDTH)  #: the word
    some: Out(1)  #: a word can be popped
    pop: In(1)  #: take it
    word: Out(WIDTH)  #: the word, `READ_LATENCY` cycles after `pop`
    empty: Out(1)  #: no place is set aside or taken

    def __init__(self, depth: int) -> None:
        self.depth = depth
        super().__init__()

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.submodules.memory = memory = ChunkMemory(WIDTH, WIDTH, self.depth)
        used = Signal(range(self.depth + 1))  # set aside
        # Words present, less 1: its sign tells at once whether there is one.
        level = Signal(signed((self.depth - 1).bit_length() + 1), init=-1)
        write = Signal(range(self.depth))
        read = Signal(range(self.depth))
        m.d.sync += [
            used.eq(used + self.reserve - self.pop),
            level.eq(level + self.push - self.pop),
            write.eq(write + self.push),
            read.eq(read + self.pop),
            self.room.eq(used <= self.depth - MARGIN),
        ]
        m.d.comb += [
            self.some.eq(~level[-1]),
            self.empty.eq(used == 0),
            memory.write_en.eq(self.push),
            memory.write_addr.eq(write),
            memory.write_data.eq(self.data),
            memory.read_addr.eq(read),
            self.word.eq(memory.read_data),
        ]
        return m
