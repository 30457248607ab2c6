# SPDX-License-Identifier: Apache-2.0
"""Which contiguous pieces of memory a FRONT instruction reads, in order."""

from typing import Any

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from lutvar.contract.isa import Opcode
from lutvar.hw.links import ADDRESS, payload_layout, transfer_layout

#: Beats of 128 FP16 and of 128 float32 values, as powers of two.
HALF_SHIFT, FLOAT_SHIFT = 2, 3


class RowRequests(wiring.Component):
    """Requests an instruction's reads: scale vector, shift vector (norm only), then its rows.

    Throughput: one request in each cycle, the first one cycle after `start`.
    """

    start: In(1)  #: begin an instruction; only while not `busy`
    work: In(payload_layout(Opcode.FRONT))  #: the instruction, with `start`
    request: Out(stream.Signature(transfer_layout()))  #: one transfer for each vector and row
    stop: In(1)  #: offer no more requests
    busy: Out(1)  #: requests remain

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        work = self.work
        vectors = Signal(2)  # still to be requested
        rows = Signal(len(work.rows))  # still to be requested
        norm = Signal(reset_less=True)
        groups = Signal(len(work.groups), reset_less=True)
        stride = Signal(len(work.stride), reset_less=True)
        row = Signal(ADDRESS, reset_less=True)
        # The vectors' addresses move up by one when the first was requested.
        vector = Signal(ADDRESS, reset_less=True)
        later = Signal(ADDRESS, reset_less=True)

        wide = norm & (vectors == 0)
        m.d.comb += [
            self.request.valid.eq(self.busy & ~self.stop),
            self.request.payload.address.eq(Mux(vectors != 0, vector, row)),
            self.request.payload.beats.eq(Mux(wide, groups << FLOAT_SHIFT, groups << HALF_SHIFT)),
        ]
        with m.If(self.request.valid & self.request.ready):
            with m.If(vectors != 0):
                m.d.sync += [vectors.eq(vectors - 1), vector.eq(later)]
            with m.Else():
                # Rows are at least 1; a flag of its own, for the next command waits for it.
                m.d.sync += [rows.eq(rows - 1), row.eq(row + stride), self.busy.eq(rows != 1)]
        with m.If(self.start):
            m.d.sync += [
                vectors.eq(Mux(work.norm, 2, 0)),
                rows.eq(work.rows),
                self.busy.eq(1),
                norm.eq(work.norm),
                groups.eq(work.groups),
                stride.eq(work.stride),
                row.eq(work.address),
                vector.eq(work.scale),
                later.eq(work.shift),
            ]
        return m
