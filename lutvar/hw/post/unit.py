# SPDX-License-Identifier: Apache-2.0
"""The POST unit: accumulators to memory, with what follows a matrix product (contract, 10)."""

from typing import Any

from amaranth.hdl import Module, Mux, Signal, unsigned
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from lutvar.contract.accelerator import AcceleratorConfig
from lutvar.contract.isa import Opcode
from lutvar.hw.axi.reader import BurstReader
from lutvar.hw.axi.writer import BurstWriter
from lutvar.hw.links import (
    UnitComponent,
    axi_read,
    axi_write,
    connect_masters,
    drain_layout,
    drain_values,
    memory_members,
    unit_members,
)
from lutvar.hw.port_types import AxiReadPort, AxiWritePort, View
from lutvar.hw.units.memory import Fifo

from .column_sums import ColumnSums
from .drain import Drain
from .issue import Issue
from .jobs import JobGenerator
from .lanes import AT_SCALED, AT_SUM, Lanes
from .operands import OperandReader
from .orders import Path
from .prepare import MAX_STARTED, Prepare
from .transpose import BlockBuffer
from .vectors import VectorReader

ORDERS = 4  #: instructions that wait at each part
JOBS = 16  #: rows that wait
WRITE_PLACES = 128  #: beats between the lanes and memory


class PostUnit(UnitComponent):
    """Executes POST instructions.

    Instructions overlap: the next one's blocks are drained and its rows read while the last one's
    results are written. `done` follows the last write response of the instruction.

    Cycles of an instruction, from `done` of the one before: `blocks * max(64, r)` while memory
    keeps up; r is `8 * rows` for STORE and ADD, `4 * rows` for GELU and QKV, for an ADD with
    vector `8 * rows + 4` (beats read). Where the path changes and rows wait, there is a pause: 20
    cycles from GELU to STORE and ADD, 31 from GELU to QKV, 33 from QKV to others, else 1. Alone,
    from its start: `(blocks - 1) * max(64, r) + drain_latency + 107 + r + p` and the latency of a
    write response; p is 0 for STORE and ADD, 16 for GELU, 27 for q and `26 + rows` for k and v;
    more by what memory's latency for reading exceeds `drain_latency + 59`, with factors and shifts
    4 cycles sooner. With `float32: dsp58` results other than records are 10 cycles earlier, the
    pause from GELU to QKV is 21 cycles and that from QKV 43. An ADD of rows that instructions
    under way store begins when they are complete (`Prepare`).

    NORM takes `blocks * (8 * rows + 4 * v)` cycles with v vectors, for so many beats are read;
    alone 64 and twice the memory's latency more. SUMS takes `32 * blocks`; alone 57 and a write
    response's latency more. With `float32: dsp58` both are 10 cycles earlier. Their pauses are at
    most 60 cycles: the lanes empty. Sums take no time of their own.
    """

    drain: View  #: out: requests to the matrix unit
    drained: View  #: in: values from the matrix unit
    read: AxiReadPort  #: out: reads of factors and of rows to add
    write: AxiWritePort  #: out: writes of results

    def __init__(self, config: AcceleratorConfig) -> None:
        self.config = config
        super().__init__(
            {
                **unit_members(Opcode.POST),
                **memory_members(2),
                "drain": Out(drain_layout(config)),
                "drained": In(drain_values()),
                "read": Out(axi_read()),
                "write": Out(axi_write()),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        config = self.config
        m.submodules.reader = reader = BurstReader(config.read_fifo)
        m.submodules.writer = writer = BurstWriter(WRITE_PLACES)
        m.submodules.prepare = prepare = Prepare(config)
        m.submodules.drainer = drainer = Drain(config)
        m.submodules.operands = operands = OperandReader()
        m.submodules.generator = generator = JobGenerator()
        m.submodules.buffer = buffer = BlockBuffer()
        m.submodules.lanes = lanes = Lanes(config)
        times = lanes.times
        m.submodules.vectors = vectors = VectorReader(
            AT_SUM, AT_SCALED, times.shifts, times.norm_shifts if config.decoder else None
        )
        m.submodules.issue = issue = Issue(times, WRITE_PLACES, config.pipelined, config.decoder)
        m.submodules.jobs = jobs = Fifo(generator.job.payload.shape(), JOBS)
        wiring.connect(m, wiring.flipped(self.command), prepare.command)
        for name, port in (("drain", drainer), ("operands", operands), ("jobs", generator)):
            source = getattr(prepare, name)
            m.submodules[f"{name}_orders"] = queue = Fifo(source.payload.shape(), ORDERS)
            wiring.connect(m, source, queue.i)
            wiring.connect(m, queue.o, port.order)
        wiring.connect(m, reader.memory, wiring.flipped(self.read))
        wiring.connect(m, writer.memory, wiring.flipped(self.write))
        wiring.connect(m, operands.request, reader.request)
        wiring.connect(m, reader.data, operands.data)
        wiring.connect(m, generator.job, jobs.i)
        wiring.connect(m, jobs.o, issue.job)
        wiring.connect(m, issue.request, writer.request)
        m.d.comb += [
            self.drain.eq(drainer.request),
            drainer.release.eq(issue.release),
            buffer.write.eq(drainer.write),
            buffer.write_slot.eq(drainer.write_slot),
            buffer.write_pair.eq(drainer.write_pair),
            buffer.values.eq(self.drained),
            buffer.read_slot.eq(issue.slot),
            buffer.read_row.eq(issue.job.payload.row),
            buffer.read_part.eq(issue.part[1:]),
            issue.written.eq(buffer.written),
            issue.row_valid.eq(operands.row_valid),
            operands.row_take.eq(issue.row_take),
            vectors.beat.eq(operands.row),
            vectors.fire.eq(issue.fire),
            vectors.gelu.eq(issue.job.payload.path == Path.GELU),
            vectors.norm.eq(issue.job.payload.path == Path.NORM),
            vectors.part.eq(issue.part),
            vectors.vector.eq(issue.job.payload.vector),
            vectors.scalar.eq(issue.job.payload.scalar),
            vectors.shift.eq(issue.job.payload.shift),
            lanes.fire.eq(issue.fire),
            lanes.job.eq(issue.job.payload),
            lanes.part.eq(issue.part),
            lanes.row.eq(operands.row),
            lanes.factors.eq(vectors.factors),
            lanes.shifts.eq(vectors.shifts),
            lanes.shifted.eq(vectors.shifted),
            lanes.values.eq(buffer.part),
            issue.left.eq(writer.data.valid),
            issue.near.eq(lanes.near),
        ]
        # There is a place: `issue` has counted.
        pushed, beat = lanes.push, lanes.beat
        if config.decoder:
            m.submodules.sums = sums = ColumnSums(times.sums)
            m.d.comb += [
                sums.fire.eq(issue.fire),
                sums.job.eq(issue.job.payload),
                sums.block.eq(issue.block),
                sums.quarter.eq(issue.quarter),
                sums.part.eq(issue.part),
                sums.results.eq(lanes.beat),
            ]
            pushed, beat = lanes.push | sums.push, Mux(sums.push, sums.beat, lanes.beat)
        m.d.comb += [writer.data.valid.eq(pushed), writer.data.payload.eq(beat)]
        for name in ("factors", "shifts"):
            m.d.comb += [
                getattr(operands, f"{name}_room").eq(getattr(vectors, f"{name}_room")),
                getattr(vectors, f"place_{name}").eq(getattr(operands, f"place_{name}")),
                getattr(issue, f"{name}_valid").eq(getattr(vectors, f"{name}_valid")),
                getattr(vectors, f"{name}_release").eq(getattr(issue, f"{name}_release")),
            ]
        m.d.sync += issue.sent.eq(writer.memory.wvalid & writer.memory.wready)
        self._complete(m, issue, writer, prepare)
        connect_masters(m, self, (reader, writer))
        m.d.sync += self.idle.eq(reader.idle & writer.idle)
        m.d.comb += [self.busy.eq(prepare.busy), self.active.eq(issue.fire | drainer.request.valid)]
        return m

    def _complete(self, m: Module, issue: Issue, writer: BurstWriter, prepare: Prepare) -> None:
        """`done` when all writes up to an instruction's last one have responses."""
        m.submodules.ends = ends = Fifo(unsigned(len(issue.requests)), MAX_STARTED)
        responses = Signal.like(issue.requests)
        ahead = (responses - ends.o.payload)[: len(responses)]
        last = Signal()
        m.d.sync += [last.eq(issue.last), responses.eq(responses + writer.responses)]
        m.d.comb += [
            ends.i.valid.eq(last),  # one cycle later, `requests` has counted the last one
            ends.i.payload.eq(issue.requests),
            ends.o.ready.eq(~ahead[-1]),
            prepare.done.eq(self.done),
        ]
        m.d.sync += self.done.eq(ends.o.valid & ends.o.ready)
