# SPDX-License-Identifier: Apache-2.0
"""Decides in each cycle whether the next values of a row enter the lanes."""

from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from lutvar.contract.column_sums import MAX_BLOCKS
from lutvar.hw.links import transfer_layout
from lutvar.hw.units.count import Level
from lutvar.hw.units.memory import Fifo
from lutvar.hw.units.pipeline import valid_line

from .lanes import LaneTimes
from .orders import PARTS, Path, job_layout
from .records import RecordMaker
from .transpose import SLOTS

#: Writes that wait for the burst writer: every fourth cycle brings one whose records take 65
#: cycles until they can be written.
_REQUESTS = 32


class Issue(wiring.Component):
    """Parts of jobs in order, one or two in each cycle when all that they need is there.

    Behind it nothing waits: places for results are taken in advance (`sent` returns them).
    Results leave the lanes in the order in which their values enter: GELU takes longer than sums,
    records longer than GELU, so only a change to a shorter path waits, and one from GELU to
    records, whose values would meet its results in the conversion (`HalfLane`). NORM and COLUMNS
    begin and end with empty lanes.

    Parts 0 to 7 of a row enter in order, so the same columns come again after eight cycles at the
    earliest, whatever row or instruction they belong to: `ColumnSums` depends on it.

    Args:
        decoder: there are NORM and COLUMNS.
        times: of the lanes.
        places: beats that the burst writer takes without pause.
        pipelined: False: a beat of results enters only when the last one has left the lanes.
    """

    job: In(stream.Signature(job_layout()))  #: from `JobGenerator`
    request: Out(stream.Signature(transfer_layout()))  #: to the burst writer
    written: In(1)  #: a block was stored
    release: Out(1)  #: the oldest block was read
    factors_valid: In(1)  #: see `VectorReader`
    factors_release: Out(1)  #: see `VectorReader`
    shifts_valid: In(1)  #: see `VectorReader`
    shifts_release: Out(1)  #: see `VectorReader`
    row_valid: In(1)  #: see `OperandReader`
    row_take: Out(1)  #: see `OperandReader`
    #: a part of 16 values enters, or two of them (GELU and RECORD): of `job.payload`, `part`,
    #: `slot` and `block`
    fire: Out(1)
    part: Out(range(PARTS))  #: the part, or the first of two
    slot: Out(range(SLOTS))  #: slot of the block buffer
    block: Out(range(MAX_BLOCKS))  #: block of the instruction, modulo 16; of COLUMNS a quarter's
    quarter: Out(2)  #: quarter of the block (COLUMNS)
    left: In(1)  #: a beat of results has left the lanes
    sent: In(1)  #: a beat of results has left for memory
    near: In(1)  #: see `Lanes`
    requests: Out(10)  #: writes so far, modulo 2**10
    last: Out(1)  #: one cycle: an instruction's last part

    def __init__(self, times: LaneTimes, places: int, pipelined: bool, decoder: bool) -> None:
        self.times, self.places, self.pipelined = times, places, pipelined
        self.decoder = decoder
        super().__init__()

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.submodules.queue = queue = Fifo(transfer_layout(), _REQUESTS)
        wiring.connect(m, queue.o, wiring.flipped(self.request))
        job = self.job.payload
        step = Signal(range(PARTS))  # in parts
        enter = Signal()  # the first values of a beat
        blocks = Level(m, "blocks", SLOTS, self.written, self.release)  # in the buffer
        places = Level(m, "places", self.places, self.sent, enter, init=self.places)  # free
        inside = Signal(range(self.places + 1))  # beats of results in the lanes

        path = Signal(Path)  # of the last values
        bits = len(path) if self.decoder else 2  # the other paths need no more
        alone, pairs = (job.alone, job.pairs) if self.decoder else (Const(0), Const(0))
        begin = Signal()  # of a beat
        end = Signal()  # of the job
        done = Signal()  # of a block, or of COLUMNS a quarter
        m.d.comb += [
            begin.eq(~(job.fours & step[1]) & ~(pairs & step[0])),
            end.eq((step[0] | ~job.single) & step[1] & (step[2] | ~job.whole)),
            self.fire.eq(
                self.job.valid & (blocks.some | alone) & (path[:bits] == job.path[:bits])
                & (~job.vector | self.factors_valid)
                & (~job.shift | self.shifts_valid)
                & (~job.add | self.row_valid)
                & (~begin | (places.some & ((inside == 0) | self.pipelined)))
                & ((step != 0) | queue.i.ready)
            ),
            enter.eq(self.fire & begin),
            self.part.eq(Cat(step[:2], step[2] | job.upper)),
            self.job.ready.eq(self.fire & end),
            self.row_take.eq(self.fire & job.add),
            done.eq(self.fire & end & job.release),
            self.release.eq(done & ~alone),
            self.factors_release.eq(done & job.vector),
            self.shifts_release.eq(done & job.shift),
            self.last.eq(self.fire & end & job.last),
            queue.i.valid.eq(self.fire & (step == 0) & job.request),
            queue.i.payload.address.eq(Cat(Const(0, 6), job.address)),
            queue.i.payload.beats.eq(job.beats),
        ]  # fmt: skip
        m.d.sync += [
            step.eq(Mux(self.fire, Mux(end, 0, step + Mux(job.single, 1, 2)), step)),
            self.slot.eq(self.slot + self.release),
            inside.eq(inside + enter - self.left),
            self.requests.eq(self.requests + queue.i.valid),
        ]
        if self.decoder:
            with m.If(done):
                number = Cat(self.quarter, self.block)
                more = Mux(job.path == Path.COLUMNS, 1, 4)
                m.d.sync += number.eq(Mux(job.last, 0, number + more))
        with m.If(self.job.valid & self._clear(m, path, enter, inside == 0)):
            m.d.sync += path.eq(job.path)
        return m

    def _clear(self, m: Module, path: Value, enter: Value, empty: Value) -> Value:
        """Values of the job's path may enter from the next cycle on, whatever is in the lanes."""
        # Cycles in which values for GELU entered.
        times = self.times
        gelu = valid_line(m, self.fire & (path == Path.GELU), times.gelu_to_record - 1, "gelu")
        far = Signal(range(RecordMaker.UNDER_WAY + 1))  # records begun and not near yet
        clear = Signal()
        m.d.sync += far.eq(far + (enter & (path == Path.RECORD)) - self.near)
        alone: Value = Const(0)
        if self.decoder:
            alone = self.job.payload.alone | (path == Path.NORM) | (path == Path.COLUMNS)
        with m.If(alone):
            m.d.comb += clear.eq(empty)
        with m.Else(), m.Switch(self.job.payload.path):
            with m.Case(Path.SUM):
                m.d.comb += clear.eq((far == 0) & ~gelu[: times.gelu_to_sum - 1].any())
            with m.Case(Path.GELU):
                m.d.comb += clear.eq(far == 0)
            with m.Default():
                m.d.comb += clear.eq(~gelu.any())
        return clear
