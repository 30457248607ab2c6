# SPDX-License-Identifier: Apache-2.0
"""A place where the ready of a stream ends in a flip-flop: for the boundary of two units."""

from typing import Any

from amaranth.hdl import Module, Mux, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from lutvar.hw.port_types import Stream


class SkidBuffer(wiring.Component):
    """Cuts the path of `ready` between two units; data goes through.

    An item that comes while the sink waits is kept, and `i.ready` is taken back a cycle later. So
    the source sees a flip-flop, whatever the sink makes its ready from. Items leave in order, none
    is lost or doubled, and one that is offered stays until it is taken.

    Latency 0, one item in each cycle. Cost: a register of an item, without reset, and a LUT for
    each bit, in which `o.payload` chooses between the register and the source.
    """

    i: Stream  #: in: items; `ready` is a flip-flop
    o: Stream  #: out: the same items in order

    def __init__(self, shape: Any) -> None:
        super().__init__({"i": In(stream.Signature(shape)), "o": Out(stream.Signature(shape))})

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        item = Value.cast(self.i.payload)
        kept = Signal(len(item), reset_less=True)
        # Each the other's inverse, but `ready` reaches far and so is a flip-flop of its own.
        full, room = Signal(), Signal(init=1)
        m.d.comb += [
            self.i.ready.eq(room),
            self.o.valid.eq(self.i.valid | full),
            Value.cast(self.o.payload).eq(Mux(full, kept, item)),
        ]
        m.d.sync += [
            full.eq(self.o.valid & ~self.o.ready),
            room.eq(~self.o.valid | self.o.ready),
        ]
        with m.If(~full):
            m.d.sync += kept.eq(item)
        return m
