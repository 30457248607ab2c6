# SPDX-License-Identifier: Apache-2.0
"""Which of the records that one memory port brings are q, and which K."""

from typing import Any

from amaranth.hdl import Cat, Module, Signal, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from lutvar.contract.accelerator import HEAD_DIM
from lutvar.contract.memory import SCALE_BYTE
from lutvar.hw.axi.queue import WideQueue
from lutvar.hw.links import BEAT
from lutvar.hw.port_types import Stream
from lutvar.hw.units.memory import Fifo

from .sizes import AttentionSizes

_AHEAD = 8  #: blocks whose records were requested


def sorter_layout(sizes: AttentionSizes) -> data.StructLayout:
    """A block's records: q of its rows, then, of the first block of a head, its keys."""
    return data.StructLayout(
        {"rows": range(sizes.rows + 1), "keys": range(sizes.max_keys + 1), "first": 1}
    )


class RecordSorter(wiring.Component):
    """Deals out records; q records wait in a queue, so that the keys behind them can pass on.

    The queue holds the q of two blocks or more: while the last block but one of a head is worked
    on, the keys of the next head follow. A record in each cycle, but for one cycle after each
    block; a q takes 3 cycles, a key none. Cost: LUTRAM of the queue, about 40 LUTs.
    """

    block: Stream  #: in: blocks in the order of their records
    records: Stream  #: in: q and K records
    queries: Stream  #: out: the q records
    keys: Stream  #: out: the K records

    def __init__(self, sizes: AttentionSizes) -> None:
        self.sizes = sizes
        self.depth = max(16, 1 << (2 * sizes.rows - 1).bit_length())
        self.codes = HEAD_DIM * sizes.fmt.bits
        super().__init__(
            {
                "block": In(stream.Signature(sorter_layout(sizes))),
                "records": In(stream.Signature(unsigned(BEAT))),
                "queries": Out(stream.Signature(unsigned(BEAT))),
                "keys": Out(stream.Signature(unsigned(BEAT))),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        codes, record = self.codes, self.records.payload
        m.submodules.blocks = blocks = Fifo(sorter_layout(self.sizes), _AHEAD)
        m.submodules.queue = queue = WideQueue(codes + 16, self.depth)
        wiring.connect(m, wiring.flipped(self.block), blocks.i)
        left = Signal(range(max(self.sizes.max_keys, self.sizes.rows) + 1))
        final = Signal()
        block = Signal.like(blocks.o.payload, reset_less=True)
        m.d.comb += [
            queue.data.eq(Cat(record[:codes], record[8 * SCALE_BYTE :][:16])),
            self.queries.valid.eq(queue.o.valid),
            queue.o.ready.eq(self.queries.ready),
            self.queries.payload[:codes].eq(queue.o.payload[:codes]),
            self.queries.payload[8 * SCALE_BYTE :][:16].eq(queue.o.payload[codes:]),
            self.keys.payload.eq(record),
        ]
        with m.If(self.records.valid & self.records.ready):
            m.d.sync += [left.eq(left - 1), final.eq(left == 2)]
        with m.FSM():
            with m.State("BLOCK"):
                upcoming = blocks.o.payload
                m.d.comb += blocks.o.ready.eq(1)
                m.d.sync += [
                    block.eq(upcoming),
                    left.eq(upcoming.rows),
                    final.eq(upcoming.rows == 1),
                ]
                with m.If(blocks.o.valid):
                    m.next = "QUERIES"
            with m.State("QUERIES"):
                m.d.comb += [
                    self.records.ready.eq(queue.room),
                    queue.push.eq(self.records.valid & queue.room),
                ]
                with m.If(queue.push & final):
                    m.next = "BLOCK"
                    with m.If(block.first):
                        m.d.sync += [left.eq(block.keys), final.eq(block.keys == 1)]
                        m.next = "KEYS"
            with m.State("KEYS"):
                m.d.comb += [
                    self.keys.valid.eq(self.records.valid),
                    self.records.ready.eq(self.keys.ready),
                ]
                with m.If(self.records.valid & self.records.ready & final):
                    m.next = "BLOCK"
        return m
