# SPDX-License-Identifier: Apache-2.0
"""An engine with the members of the real one and trivial arithmetic, to test what surrounds it.

A job takes `rows` beats from act and as many from wgt and sends act + wgt for each. Its status
outputs are plain signals that a test drives.
"""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from lutvar.hw.top.control import ENGINE_STATUS

JOB = data.StructLayout({
    "rows": 17, "groups": 8, "tiles": 16, "rotate": 1, "dual": 1, "dump": 1, "scale_exp": 8,
})  # fmt: skip
#: Status that the stand-in computes; the test drives the others.
COMPUTED = ("done", "idle", "issue", "front_busy")


class StandInEngine(wiring.Component):
    """One job at a time, one beat a cycle; `args` keeps the arguments of the last job."""

    def __init__(self, stream_bytes: int):
        beat = data.StructLayout({"data": 8 * stream_bytes, "last": 1})
        super().__init__({
            "job": In(stream.Signature(JOB)),
            "act": In(stream.Signature(beat)), "wgt": In(stream.Signature(beat)),
            "out": Out(stream.Signature(beat)), "halt": In(1),
            **{name: Out(width) for name, width in ENGINE_STATUS.items()},
        })  # fmt: skip
        self.args = Signal(JOB)
        self.driven = {
            name: Signal(width, name=f"driven_{name}")
            for name, width in ENGINE_STATUS.items()
            if name not in COMPUTED
        }

    def elaborate(self, platform):
        m = Module()
        left = Signal(17)
        busy = Signal()
        move = Signal()
        m.d.comb += [
            busy.eq(left != 0),
            self.job.ready.eq(~busy & ~self.halt),
            self.out.valid.eq(busy & self.act.valid & self.wgt.valid & ~self.halt),
            self.out.p.data.eq(self.act.p.data + self.wgt.p.data),
            self.out.p.last.eq(left == 1),
            move.eq(self.out.valid & self.out.ready),
            self.act.ready.eq(move), self.wgt.ready.eq(move),
            self.idle.eq(~busy), self.front_busy.eq(busy), self.issue.eq(move),
            self.done.eq(move & (left == 1)),
        ]  # fmt: skip
        with m.If(self.job.valid & self.job.ready):
            m.d.sync += [left.eq(self.job.p.rows), self.args.eq(self.job.p)]
        m.d.sync += left.eq(Mux(self.job.valid & self.job.ready, self.job.p.rows, left - move))
        m.d.comb += [getattr(self, name).eq(signal) for name, signal in self.driven.items()]
        return m
