# SPDX-License-Identifier: Apache-2.0
"""Decides in each cycle whether the next part of 16 values enters the lanes."""

from typing import Any

from amaranth.hdl import Array, C, Cat, Const, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from lutvar.hw.links import transfer_layout
from lutvar.hw.matrix.memory import Fifo

from .orders import PARTS, job_layout
from .transpose import SLOTS

_REQUESTS = 8  #: writes that wait for the burst writer


class Issue(wiring.Component):
    """Parts of jobs in order, one in each cycle when all that they need is there.

    Behind it nothing waits: places for results are taken in advance (``sent`` returns them), and
    results of one path leave the lanes before those of another enter them.

    Args:
        places: beats that the burst writer takes without pause.
        pipelined: False: a beat of results enters only when the last one has left the lanes.

    Members:
        job: from ``Walk``. request: to the burst writer.
        written, release: a block was stored; the oldest one was read.
        factors_valid, factors_release, row_valid, row_take: see ``Fetch``.
        fire: a part enters. Then ``job.payload``, ``part``, ``slot`` are what it is.
        left: a beat of results has left the lanes. sent: one has left for memory.
        path: of the parts in the lanes; changes only while there are none.
        requests: writes so far, modulo 2**10; ``last``: one cycle: an instruction's last part.
    """

    def __init__(self, places: int, pipelined: bool) -> None:
        self.places, self.pipelined = places, pipelined
        super().__init__(
            {
                "job": In(stream.Signature(job_layout())),
                "request": Out(stream.Signature(transfer_layout())),
                "written": In(1), "release": Out(1),
                "factors_valid": In(1), "factors_release": Out(1),
                "row_valid": In(1), "row_take": Out(1),
                "fire": Out(1), "part": Out(range(PARTS)), "slot": Out(range(SLOTS)),
                "left": In(1), "sent": In(1), "path": Out(2),
                "requests": Out(10), "last": Out(1),
            }
        )  # fmt: skip

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.submodules.queue = queue = Fifo(transfer_layout(), _REQUESTS)
        wiring.connect(m, queue.o, wiring.flipped(self.request))
        job = self.job.payload
        step = Signal(range(PARTS))
        blocks = Signal(range(SLOTS + 1))  # in the buffer
        places = Signal(range(self.places + 1), init=self.places)  # free
        inside = Signal(range(self.places + 1))  # beats of results in the lanes

        begin, end, other = Signal(), Signal(), Signal()  # of a beat; of the job
        masks = Array([C(0, 2), C(1, 2), C(3, 2), C(3, 2)])
        m.d.comb += [
            begin.eq((step[:2] & masks[job.path]) == 0),
            end.eq(step == Mux(job.whole, PARTS - 1, PARTS // 2 - 1)),
            other.eq(self.path != job.path),
            self.fire.eq(
                self.job.valid & (blocks != 0) & ~other
                & (~job.vector | self.factors_valid)
                & (~job.add | self.row_valid)
                & (~begin | ((places != 0) & ((inside == 0) | self.pipelined)))
                & ((step != 0) | queue.i.ready)
            ),
            self.part.eq(step + Mux(job.upper, PARTS // 2, 0)),
            self.job.ready.eq(self.fire & end),
            self.row_take.eq(self.fire & job.add),
            self.release.eq(self.fire & end & job.release),
            self.factors_release.eq(self.release & job.vector),
            self.last.eq(self.fire & end & job.last),
            queue.i.valid.eq(self.fire & (step == 0) & job.request),
            queue.i.payload.address.eq(Cat(Const(0, 6), job.address)),
            queue.i.payload.beats.eq(job.beats),
        ]  # fmt: skip
        enter = self.fire & begin
        m.d.sync += [
            step.eq(Mux(self.fire, Mux(end, 0, step + 1), step)),
            self.slot.eq(self.slot + self.release),
            blocks.eq(blocks + self.written - self.release),
            places.eq(places + self.sent - enter),
            inside.eq(inside + enter - self.left),
            self.requests.eq(self.requests + queue.i.valid),
        ]
        with m.If(self.job.valid & other & (inside == 0)):
            m.d.sync += self.path.eq(job.path)
        return m
