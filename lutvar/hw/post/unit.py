# SPDX-License-Identifier: Apache-2.0
"""The POST unit: accumulators to memory, with what follows a matrix product (contract, 10)."""

from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal, unsigned
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from lutvar.contract.accelerator import LANES, AcceleratorConfig
from lutvar.contract.isa import Opcode
from lutvar.hw.axi.reader import BurstReader
from lutvar.hw.axi.writer import BurstWriter
from lutvar.hw.links import (
    BEAT,
    axi_read,
    axi_write,
    drain_layout,
    drain_values,
    unit_members,
)
from lutvar.hw.matrix.memory import Fifo
from lutvar.hw.shared import place
from lutvar.hw.units.float_steps import delay

from .drain import Drain
from .fetch import Fetch
from .issue import Issue
from .lane import PostLane
from .orders import Path
from .prepare import MAX_STARTED, Prepare
from .records import RecordMaker
from .transpose import BlockBuffer
from .walk import Walk

ORDERS = 4  #: instructions that wait at each part
JOBS = 16  #: rows that wait
WRITE_PLACES = 128  #: beats between the lanes and memory


class PostUnit(wiring.Component):
    """Executes POST instructions.

    Members: ``unit_members(Opcode.POST)``; ``drain``, ``drained`` to the matrix unit; ``read`` for
    factors and rows to add, ``write`` for results.

    Instructions overlap: the next one's blocks are drained and its rows read while the last one's
    results are written. ``done`` follows the last write response of the instruction.

    Cycles of an instruction, from ``done`` of the one before: ``blocks * max(128, r)`` while
    memory keeps up; r is ``8 * rows``, for an ADD with vector ``8 * rows + 4`` (beats read). Where
    the path changes (STORE and ADD are one, GELU, QKV) 25 more, to QKV 55. Alone, from its start:
    ``(blocks - 1) * max(128, r) + drain_latency + 175 + 8 * rows + p`` and the latency of a write
    response; p is 0 for STORE and ADD, 2 for GELU, 28 for q and 38 for k and v. An ADD of rows
    that instructions under way store begins when they are complete (``Prepare``).
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self.config = config
        super().__init__(
            {
                **unit_members(Opcode.POST),
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
        m.submodules.fetch = fetch = Fetch()
        m.submodules.walk = walk = Walk()
        m.submodules.issue = issue = Issue(WRITE_PLACES, config.pipelined)
        m.submodules.buffer = buffer = BlockBuffer()
        m.submodules.jobs = jobs = Fifo(walk.job.payload.shape(), JOBS)
        wiring.connect(m, wiring.flipped(self.command), prepare.command)
        for name, port in (("drain", drainer), ("fetch", fetch), ("walk", walk)):
            source = getattr(prepare, name)
            m.submodules[f"{name}_orders"] = queue = Fifo(source.payload.shape(), ORDERS)
            wiring.connect(m, source, queue.i)
            wiring.connect(m, queue.o, port.order)
        wiring.connect(m, reader.memory, wiring.flipped(self.read))
        wiring.connect(m, writer.memory, wiring.flipped(self.write))
        wiring.connect(m, fetch.request, reader.request)
        wiring.connect(m, reader.data, fetch.data)
        wiring.connect(m, walk.job, jobs.i)
        wiring.connect(m, jobs.o, issue.job)
        wiring.connect(m, issue.request, writer.request)
        m.d.comb += [
            self.drain.eq(drainer.request),
            drainer.release.eq(issue.release),
            buffer.write.eq(drainer.write),
            buffer.write_slot.eq(drainer.write_slot),
            buffer.write_column.eq(drainer.write_column),
            buffer.values.eq(self.drained),
            buffer.read_slot.eq(issue.slot),
            buffer.read_row.eq(issue.job.payload.row),
            buffer.read_part.eq(issue.part),
            issue.written.eq(buffer.written),
            issue.row_valid.eq(fetch.row_valid),
            issue.factors_valid.eq(fetch.factors_valid),
            fetch.row_take.eq(issue.row_take),
            fetch.factors_part.eq(issue.part),
            fetch.factors_release.eq(issue.factors_release),
        ]
        self._compute(m, platform, issue, fetch, buffer, writer)
        self._complete(m, issue, writer, prepare)
        self._report(m, reader, writer)
        m.d.comb += [self.busy.eq(prepare.busy), self.active.eq(issue.fire | drainer.request.valid)]
        return m

    def _compute(
        self, m: Module, platform: Any, issue: Issue, fetch: Fetch, buffer: BlockBuffer,
        writer: BurstWriter,
    ) -> None:  # fmt: skip
        """The lanes and what gathers their results. Cycle t: t cycles after ``issue.fire``."""
        job = issue.job.payload
        at_y = BlockBuffer.READ_LATENCY
        after = {
            Path.SUM: PostLane.SUM_LATENCY,
            Path.GELU: PostLane.GELU_LATENCY,
            Path.RECORD: PostLane.HALF_LATENCY,
        }
        arrived = {}  # results of the lanes, by path
        for path, latency in after.items():
            line = Signal(at_y + latency, name=f"fired_{path.name.lower()}")
            m.d.sync += line.eq(Cat(issue.fire & (issue.path == path), line))
            arrived[path] = line[-1]

        # Cycle 1: the factors' memory was read. Cycle 2: factors. The lane takes them ahead of y.
        scalar_1, vector_1 = Signal(16, reset_less=True), Signal(reset_less=True)
        g = Signal(BEAT // 2, reset_less=True)
        m.d.sync += [
            scalar_1.eq(job.scalar),
            vector_1.eq(job.vector),
            g.eq(Mux(vector_1, fetch.factors, scalar_1.replicate(LANES))),
        ]
        factors = delay(m, g, at_y - PostLane.G_LEAD - 2, "factors_line")
        row = Signal(BEAT, reset_less=True)
        m.d.sync += row.eq(Mux(job.add, fetch.row, 0))
        row = delay(m, row, at_y + PostLane.X_LAG - 1, "row_line")

        sums, halves = [], []
        for k in range(LANES):
            lane = PostLane()
            place(m, platform, f"lane_{k}", lane, "post_lane")
            m.d.comb += [
                lane.y.eq(buffer.part.word_select(k, 32)),
                lane.g.eq(factors.word_select(k, 16)),
                lane.x.eq(row.word_select(k, 32)),
                lane.gelu.eq(issue.path == Path.GELU),
            ]
            sums.append(lane.sum)
            halves.append(lane.half)
        half = Cat(*halves)

        m.submodules.records = records = RecordMaker(self.config.kv)
        head = issue.fire & (issue.part[:2] == 0) & (job.path == Path.RECORD)
        tag_valid = Signal(2)
        m.d.sync += tag_valid.eq(Cat(head, tag_valid))
        m.d.comb += [
            records.tag_valid.eq(tag_valid[-1]),
            records.tag.kind.eq(delay(m, job.kind, 2, "kind_line")),
            records.tag.kappa.eq(g[:16]),
            records.values.eq(half),
            records.valid.eq(arrived[Path.RECORD]),
        ]

        # Results as beats.
        odd, low = Signal(), Signal(BEAT // 2, reset_less=True)
        with m.If(arrived[Path.GELU]):
            m.d.sync += [odd.eq(~odd), low.eq(half)]
        push, beat = Signal(), Signal(BEAT, reset_less=True)
        with m.Switch(issue.path):
            with m.Case(Path.SUM):
                m.d.sync += [push.eq(arrived[Path.SUM]), beat.eq(Cat(*sums))]
            with m.Case(Path.GELU):
                m.d.sync += [push.eq(arrived[Path.GELU] & odd), beat.eq(Cat(low, half))]
            with m.Default():
                m.d.sync += [push.eq(records.done), beat.eq(records.record)]
        sent = Signal()
        m.d.sync += sent.eq(writer.memory.wvalid & writer.memory.wready)
        m.d.comb += [
            writer.data.valid.eq(push),  # there is a place: `issue` has counted
            writer.data.payload.eq(beat),
            issue.left.eq(push),
            issue.sent.eq(sent),
        ]

    def _complete(self, m: Module, issue: Issue, writer: BurstWriter, prepare: Prepare) -> None:
        """``done`` when all writes up to an instruction's last one have responses."""
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

    def _report(self, m: Module, reader: BurstReader, writer: BurstWriter) -> None:
        m.d.comb += [reader.stop.eq(self.stop), writer.stop.eq(self.stop)]
        m.d.sync += self.quiet.eq(reader.quiet & writer.quiet)
        with m.If(~self.error):
            m.d.sync += [
                self.error.eq(reader.error | writer.error),
                self.error_address.eq(
                    Mux(reader.error, reader.error_address, writer.error_address)
                ),
            ]
