# SPDX-License-Identifier: Apache-2.0
"""A register slice for a stream: every output of both sides is a flip-flop."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out


class StreamSlice(wiring.Component):
    """Two-entry buffer between two streams.

    Throughput 1 word a cycle, latency 1 cycle. Cost: two copies of the payload in flip-flops and
    one 2:1 multiplexer a bit.

    Args:
        shape: payload shape.

    Members:
        i: input stream. ``ready`` is a flip-flop that is 0 during reset.
        o: output stream. A word that was offered stays until it is taken, also when halted.
        halt: takes and offers nothing new (the input may take one last word in the first cycle).
    """

    def __init__(self, shape):
        super().__init__(
            {
                "i": In(stream.Signature(shape)),
                "o": Out(stream.Signature(shape)),
                "halt": In(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        ready = Signal()
        full = Signal()
        spare = Signal.like(self.i.payload)
        accept = Signal()
        leave = Signal()
        keep = Signal()
        m.d.comb += [
            self.i.ready.eq(ready),
            accept.eq(self.i.valid & ready),
            leave.eq(~self.o.valid | self.o.ready),
            # ready implies that the spare place is empty, so an accepted word always has a place.
            keep.eq((full | accept) & ~(leave & ~self.halt)),
        ]
        m.d.sync += [full.eq(keep), ready.eq(~keep & ~self.halt)]
        with m.If(leave):
            m.d.sync += [
                self.o.valid.eq((full | accept) & ~self.halt),
                self.o.payload.eq(Mux(full, spare, self.i.payload)),
            ]
        with m.If(ready):
            m.d.sync += spare.eq(self.i.payload)
        return m
