# SPDX-License-Identifier: Apache-2.0
"""Lets weight vectors into the chain when the operand that they meet is there."""

from typing import Any

from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out


class IssueGate(wiring.Component):
    """Starts operands and passes vectors on.

    Combinational from `valid`, `end` and `loaded` to `go` and `start`, two LUT levels.

    Args:
        fill: cycles from `start` to the first vector, at least 1.
        interval: least cycles from vector to vector; 1 unless pipelining is to be switched off.
    """

    valid: In(1)  #: a weight vector is here
    end: In(1)  #: it is the last of its pass
    go: Out(1)  #: the vector is issued in this cycle
    loaded: In(1)  #: the next operand may be started
    #: it is started in this cycle; at the earliest together with the last vector of the pass before
    start: Out(1)
    open: Out(1)  #: the current operand is usable, a vector would be issued

    def __init__(self, fill: int, interval: int = 1) -> None:
        if fill < 1 or interval < 1:
            raise ValueError(f"fill {fill} and interval {interval} must be at least 1")
        self.fill, self.interval = fill, interval
        super().__init__()

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        usable = Signal()  # vectors may meet the current operand
        filling = Signal(range(self.fill))  # cycles until then
        pause = Signal(range(self.interval))
        quick = Signal(init=1)  # nothing in flight that forbids the next vector
        ended = Signal()
        m.d.comb += [
            self.open.eq(usable & quick),
            self.go.eq(self.valid & self.open),
            ended.eq(self.go & self.end),
        ]
        pending = Signal()  # an operand is current, or will be, and has vectors to come
        m.d.comb += self.start.eq(self.loaded & (~pending | ended))
        m.d.sync += pending.eq(self.start | (pending & ~ended))
        with m.If(ended):
            m.d.sync += usable.eq(0)
        if self.fill == 1:
            with m.If(self.start):
                m.d.sync += usable.eq(1)
        else:
            with m.If(filling != 0):
                m.d.sync += filling.eq(filling - 1)
            with m.If(filling == 1):
                m.d.sync += usable.eq(1)
            with m.If(self.start):
                m.d.sync += filling.eq(self.fill - 1)
        if self.interval > 1:
            with m.If(pause != 0):
                m.d.sync += pause.eq(pause - 1)
            with m.If(self.go):
                m.d.sync += [pause.eq(self.interval - 1), quick.eq(0)]
            with m.Elif(pause == 1):
                m.d.sync += quick.eq(1)
        return m
