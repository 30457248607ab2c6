# SPDX-License-Identifier: Apache-2.0
"""A weight port's beats, counted and marked instruction by instruction."""

from typing import Any

from amaranth.hdl import Module, Signal, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from lutvar.hw.links import BEAT, weight_stream
from lutvar.hw.port_types import view_signal

READINGS = 9  #: bits of the readings of an instruction's panels: `panels * repeat`


def counts_layout() -> data.StructLayout:
    """What an instruction brings on a port: beats of a reading of a panel, and readings.

    nothing: it has no beats.
    """
    return data.StructLayout({"beats": 20, "readings": READINGS, "nothing": 1})


class Handout(wiring.Component):
    """Hands a port's beats out and marks the last one of every reading.

    Invariant: an instruction of `beats` and `readings` hands out `beats * readings` beats, of which
    numbers `beats`, `2 * beats`, ... have `last`. No beat leaves that no instruction owns. An
    instruction without beats is done when those before it are.

    Latency: 2 cycles from `counts` to the first beat, 0 from `beats` to `weights`. Throughput: one
    beat in each cycle, also across instructions that are 2 cycles apart.
    """

    counts: In(stream.Signature(counts_layout()))  #: instructions; one waits while one is counted
    beats: In(stream.Signature(unsigned(BEAT)))  #: from the port's FIFO, in order
    weights: Out(weight_stream())  #: the same beats, marked; valid while an instruction owns them
    done: Out(1)  #: an instruction is complete: its last beat is handed out in this cycle
    busy: Out(1)  #: an instruction is here

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        head = view_signal(counts_layout(), reset_less=True)
        head_valid = Signal()
        refill = Signal()
        load = Signal()
        # Not in the cycle of a refill, which comes from the array's ready: the path would be long.
        m.d.comb += [
            self.counts.ready.eq(~head_valid),
            load.eq(self.counts.valid & self.counts.ready),
        ]
        with m.If(load):
            m.d.sync += head.eq(self.counts.payload)
        skip = Signal()  # what waits has no beats
        m.d.sync += head_valid.eq(load | (head_valid & ~refill & ~skip))

        giving = Signal()
        beats = Signal(20, reset_less=True)
        left = Signal(20, reset_less=True)
        last = Signal()  # last beat of a reading
        one = Signal()  # readings of a single beat
        readings = Signal(READINGS, reset_less=True)  # that are not handed out completely
        ending = Signal()  # only one of them is left
        handshake = Signal()
        over = Signal()
        m.d.comb += [
            self.weights.valid.eq(self.beats.valid & giving),
            self.weights.payload.data.eq(self.beats.payload),
            self.weights.payload.last.eq(last),
            self.beats.ready.eq(self.weights.ready & giving),
            handshake.eq(self.weights.valid & self.weights.ready),
            over.eq(handshake & last & ending),
            skip.eq(head_valid & head.nothing & ~giving),
            self.done.eq(over | skip),
            refill.eq(head_valid & ~head.nothing & (~giving | over)),
            self.busy.eq(head_valid | giving),
        ]
        with m.If(refill):
            m.d.sync += [
                giving.eq(1),
                beats.eq(head.beats),
                left.eq(head.beats),
                one.eq(head.beats == 1),
                last.eq(head.beats == 1),
                readings.eq(head.readings),
                ending.eq(head.readings == 1),
            ]
        with m.Elif(handshake):
            m.d.sync += [left.eq(left - 1), last.eq(left == 2)]
            with m.If(last):
                m.d.sync += [
                    left.eq(beats),
                    last.eq(one),
                    readings.eq(readings - 1),
                    ending.eq(readings == 2),
                ]
            with m.If(over):
                m.d.sync += giving.eq(0)
        return m
