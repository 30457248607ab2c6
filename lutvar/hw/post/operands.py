# SPDX-License-Identifier: Apache-2.0
"""Reads ahead what POST needs from memory: factors g, shifts, rows to add or to normalise."""

from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal, unsigned
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from lutvar.hw.links import BEAT, BEAT_ADDRESS, transfer_layout
from lutvar.hw.port_types import view_signal
from lutvar.hw.units.memory import Fifo

from .orders import ROW_BEATS, VECTOR_BEATS, operand_order

_TAGS = 32  #: reads under way


class OperandReader(wiring.Component):
    """Requests in the order of use; hands rows to the lanes and vectors to `VectorReader`."""

    order: In(stream.Signature(operand_order()))  #: instructions (`operand_order`)
    request: Out(stream.Signature(transfer_layout()))  #: to the burst reader
    data: In(stream.Signature(unsigned(BEAT)))  #: from the burst reader
    row: Out(BEAT)  #: the next beat of a row to add
    row_valid: Out(1)  #: it is here
    row_take: In(1)  #: it is used
    factors_room: In(1)  #: see `VectorReader`
    shifts_room: In(1)  #: see `VectorReader`
    place_factors: Out(1)  #: `row` is of factors, 32 FP16 numbers, and is stored now
    place_shifts: Out(1)  #: `row` is of shifts, and is stored now

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.submodules.tags = tags = Fifo(unsigned(2), _TAGS)  # 0: factors, 1: rows, 2: shifts
        self._request(m, tags)
        self._deliver(m, tags)
        return m

    def _request(self, m: Module, tags: Fifo) -> None:
        order = view_signal(operand_order(), reset_less=True)
        blocks = Signal(8, reset_less=True)  # left
        factors = Signal(8, reset_less=True)  # left
        rows = Signal(5, reset_less=True)
        vector = Signal(BEAT_ADDRESS, reset_less=True)
        block = Signal(BEAT_ADDRESS, reset_less=True)
        row = Signal(BEAT_ADDRESS, reset_less=True)
        shifts = Signal(BEAT_ADDRESS, reset_less=True)
        more = Signal(reset_less=True)  # factors are left
        is_row = Signal()
        is_shift = Signal()
        offer = Signal()
        accept = Signal()

        def next_block() -> None:
            m.d.sync += [block.eq(block + ROW_BEATS), blocks.eq(blocks - 1)]
            with m.If(blocks == 1):
                m.next = "idle"
            with m.Else():
                m.next = "factors"

        m.d.comb += [
            self.request.valid.eq(offer & tags.i.ready),
            self.request.payload.address.eq(
                Cat(Const(0, 6), Mux(is_row, row, Mux(is_shift, shifts, vector)))
            ),
            self.request.payload.beats.eq(Mux(is_row, ROW_BEATS, VECTOR_BEATS)),
            accept.eq(self.request.valid & self.request.ready),
            tags.i.valid.eq(accept),
            tags.i.payload.eq(Cat(is_row, is_shift)),
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
                    shifts.eq(o.shifts),
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
                    with m.If(order.shift):
                        m.next = "shifts"
                    with m.Elif(order.add):
                        m.next = "rows"
                    with m.Elif(~more | (factors == 1)):
                        m.next = "idle"
            with m.State("shifts"):
                m.d.comb += [is_shift.eq(1), offer.eq(1)]
                with m.If(accept):
                    m.d.sync += shifts.eq(shifts + VECTOR_BEATS)
                    with m.If(order.add):
                        m.next = "rows"
                    with m.Else():
                        next_block()
            with m.State("rows"):
                m.d.comb += [is_row.eq(1), offer.eq(1)]
                with m.If(accept):
                    m.d.sync += [row.eq(row + order.input_stride), rows.eq(rows - 1)]
                    with m.If(rows == 1):
                        next_block()

    def _deliver(self, m: Module, tags: Fifo) -> None:
        position = Signal(range(ROW_BEATS))  # in the request whose beats come
        is_row, is_shift = tags.o.payload[0], tags.o.payload[1]
        take = Signal()
        end = Signal()
        vector = Signal()
        final = Mux(is_row, ROW_BEATS - 1, VECTOR_BEATS - 1)
        m.d.comb += [
            self.row.eq(self.data.payload),
            self.row_valid.eq(tags.o.valid & is_row & self.data.valid),
            vector.eq(tags.o.valid & ~is_row & self.data.valid),
            self.place_factors.eq(vector & ~is_shift & self.factors_room),
            self.place_shifts.eq(vector & is_shift & self.shifts_room),
            take.eq(self.row_take | self.place_factors | self.place_shifts),
            self.data.ready.eq(take),
            end.eq(take & (position == final)),
            tags.o.ready.eq(end),
        ]
        with m.If(take):
            m.d.sync += position.eq(Mux(end, 0, position + 1))
