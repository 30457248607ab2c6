# SPDX-License-Identifier: Apache-2.0
"""Reads ahead what POST needs from memory: factors g and rows to add."""

from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal, unsigned
from amaranth.lib import memory, stream, wiring
from amaranth.lib.wiring import In, Out

from lutvar.hw.links import BEAT, BEAT_ADDRESS, transfer_layout
from lutvar.hw.port_types import view_signal
from lutvar.hw.units.count import Level
from lutvar.hw.units.memory import Fifo

from .orders import ROW_BEATS, VECTOR_BEATS, operand_order

FACTOR_BLOCKS = 4  #: blocks whose factors are held
_TAGS = 32  #: reads under way


class OperandReader(wiring.Component):
    """Requests in the order of use, and the factors of the blocks to come."""

    order: In(stream.Signature(operand_order()))  #: instructions (`operand_order`)
    request: Out(stream.Signature(transfer_layout()))  #: to the burst reader
    data: In(stream.Signature(unsigned(BEAT)))  #: from the burst reader
    row: Out(BEAT)  #: the next beat of a row to add
    row_valid: Out(1)  #: it is here
    row_take: In(1)  #: it is used
    factors_valid: Out(1)  #: the factors of the oldest block are here
    factors_part: In(3)  #: which 16 of its 128
    factors: Out(BEAT // 2)  #: these, one cycle later
    factors_release: In(1)  #: the block was computed

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.submodules.tags = tags = Fifo(unsigned(1), _TAGS)  # 1: rows, 0: factors
        self._request(m, tags)
        self._deliver(m, tags)
        return m

    def _request(self, m: Module, tags: Fifo) -> None:
        order = view_signal(operand_order(), reset_less=True)
        blocks, factors = Signal(8, reset_less=True), Signal(8, reset_less=True)  # left
        rows = Signal(5, reset_less=True)
        vector, block = Signal(BEAT_ADDRESS, reset_less=True), Signal(BEAT_ADDRESS, reset_less=True)
        row = Signal(BEAT_ADDRESS, reset_less=True)
        more = Signal(reset_less=True)  # factors are left
        is_row, offer, accept = Signal(), Signal(), Signal()
        m.d.comb += [
            self.request.valid.eq(offer & tags.i.ready),
            self.request.payload.address.eq(Cat(Const(0, 6), Mux(is_row, row, vector))),
            self.request.payload.beats.eq(Mux(is_row, ROW_BEATS, VECTOR_BEATS)),
            accept.eq(self.request.valid & self.request.ready),
            tags.i.valid.eq(accept),
            tags.i.payload.eq(is_row),
        ]
        with m.FSM():
            with m.State("idle"):
                m.d.comb += self.order.ready.eq(1)
                o = self.order.payload
                m.d.sync += [
                    order.eq(o),
                    blocks.eq(o.blocks),
                    factors.eq(o.vector_blocks),
                    more.eq(o.vector_blocks != 0),
                    vector.eq(o.vector),
                    block.eq(o.input),
                ]
                with m.If(self.order.valid):
                    m.next = "factors"
            with m.State("factors"):
                m.d.comb += offer.eq(more)
                m.d.sync += [row.eq(block), rows.eq(order["rows"])]
                with m.If(accept):
                    m.d.sync += [
                        factors.eq(factors - 1),
                        more.eq(factors != 1),
                        vector.eq(vector + VECTOR_BEATS),
                    ]
                with m.If(accept | ~more):
                    with m.If(order.add):
                        m.next = "rows"
                    with m.Elif(~more | (factors == 1)):
                        m.next = "idle"
            with m.State("rows"):
                m.d.comb += [is_row.eq(1), offer.eq(1)]
                with m.If(accept):
                    m.d.sync += [row.eq(row + order.input_stride), rows.eq(rows - 1)]
                    with m.If(rows == 1):
                        m.d.sync += [block.eq(block + ROW_BEATS), blocks.eq(blocks - 1)]
                        with m.If(blocks == 1):
                            m.next = "idle"
                        with m.Else():
                            m.next = "factors"

    def _deliver(self, m: Module, tags: Fifo) -> None:
        position = Signal(range(ROW_BEATS))  # in the request whose beats come
        is_row = tags.o.payload
        m.submodules.store = store = memory.Memory(
            shape=unsigned(BEAT),
            depth=FACTOR_BLOCKS * VECTOR_BEATS,
            init=[],
            attrs={"ram_style": "distributed"},
        )
        write, read = store.write_port(), store.read_port(domain="comb")
        oldest = Signal(range(FACTOR_BLOCKS))
        take, end, place, complete = Signal(), Signal(), Signal(), Signal()
        # Blocks held.
        whole = Level(m, "whole", FACTOR_BLOCKS, complete, self.factors_release)
        final = Mux(is_row, ROW_BEATS - 1, VECTOR_BEATS - 1)
        m.d.comb += [
            self.row.eq(self.data.payload),
            self.row_valid.eq(tags.o.valid & is_row & self.data.valid),
            place.eq(tags.o.valid & ~is_row & self.data.valid & whole.room),
            take.eq(self.row_take | place),
            self.data.ready.eq(take),
            end.eq(take & (position == final)),
            tags.o.ready.eq(end),
            complete.eq(end & ~is_row),
            self.factors_valid.eq(whole.some),
            write.en.eq(place),
            write.data.eq(self.data.payload),
            read.addr.eq(Cat(self.factors_part[1:], oldest)),
        ]
        with m.If(take):
            m.d.sync += position.eq(Mux(end, 0, position + 1))
        m.d.sync += [
            write.addr.eq(write.addr + place),
            oldest.eq(oldest + self.factors_release),
            self.factors.eq(read.data.word_select(self.factors_part[0], BEAT // 2)),
        ]
