# SPDX-License-Identifier: Apache-2.0
"""The matrix engine: jobs and three streams around a T x N array of dot products."""

from typing import Any

from amaranth.hdl import Module, Mux, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from lutvar.contract.config import HardwareConfig, QuantConfig
from lutvar.contract.layout import StreamLayout
from lutvar.hw.units.accumulate import MIN_INTERVAL

from .activations import Activations
from .array import Array
from .job import beat_layout, job_layout
from .memory import READ_LATENCY, Fifo
from .output import DumpReader, Gearbox, word_layout
from .sequencer import Sequencer
from .weights import Weights

JOB_QUEUE = 4  #: jobs that wait in front of each loader
#: Blocks of results that have places. A place is taken from issue to output, about 40 cycles, and
#: with a single group every issue takes one.
RESULT_BLOCKS = 4
_JOB_COUNT = 32  #: more than all jobs in queues, banks and output together


class MatrixEngine(wiring.Component):
    """One linear layer for a block of rows, or the codes of the rows, for each job.

    Args:
        hardware: sizes.
        quant: formats, ties and sign vector; the preset that ``hardware`` names.

    Members:
        job: validated arguments, see ``job_layout``. Several jobs can be queued.
        act, wgt, out: streams of beats as in ``lutvar.contract.layout``.
        halt: from the next cycle on take, issue and show nothing; only a reset ends it safely.
        done: one cycle for each finished job, after its last beat was taken. idle: no job is known.
        front_busy, back_busy, act_full, wgt_full: as in register STATE.
        frame_act, frame_wgt, nonfinite: one cycle for each error, shortly after the offending beat.
            In the same cycle, frame_act_info, frame_wgt_info: beats of the job up to and including
            it; nonfinite_info: index of its group in the job (row by row).
        issue, stall_act, stall_wgt, stall_out, stall_gap: at most one in each cycle; what
            the array did.

    Throughput: one (row vector, group, pass, tile) in each cycle when the streams keep up and a
    block has at least ``MIN_INTERVAL`` row vectors. All state has a reset; after one, stream and
    job order start anew with empty banks.
    """

    def __init__(self, hardware: HardwareConfig, quant: QuantConfig) -> None:
        self.hardware, self.quant = hardware, quant
        self.layout = StreamLayout.of(hardware, quant)
        beat = beat_layout(hardware.stream_bytes)
        super().__init__(
            {
                "job": In(stream.Signature(job_layout(hardware))),
                "act": In(stream.Signature(beat)),
                "wgt": In(stream.Signature(beat)),
                "out": Out(stream.Signature(beat)),
                "halt": In(1),
                "done": Out(1),
                "idle": Out(1),
                "front_busy": Out(1),
                "back_busy": Out(1),
                "act_full": Out(2),
                "wgt_full": Out(2),
                "frame_act": Out(1),
                "frame_wgt": Out(1),
                "nonfinite": Out(1),
                "frame_act_info": Out(32),
                "nonfinite_info": Out(32),
                "frame_wgt_info": Out(32),
                "issue": Out(1),
                "stall_act": Out(1),
                "stall_wgt": Out(1),
                "stall_out": Out(1),
                "stall_gap": Out(1),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        hardware, quant = self.hardware, self.quant
        m.submodules.activations = activations = Activations(hardware, quant)
        m.submodules.weights = weights = Weights(hardware, quant)
        m.submodules.sequencer = sequencer = Sequencer(hardware, MIN_INTERVAL)
        m.submodules.array = array = Array(hardware, quant)
        m.submodules.dump = dump = DumpReader(hardware, quant)
        m.d.comb += [unit.halt.eq(self.halt) for unit in (activations, weights, sequencer, dump)]

        # Jobs: one queue for the rows, one for the weights, which run ahead of each other.
        m.submodules.act_jobs = act_jobs = Fifo(job_layout(hardware), JOB_QUEUE)
        m.submodules.wgt_jobs = wgt_jobs = Fifo(job_layout(hardware), JOB_QUEUE)
        wiring.connect(m, act_jobs.o, activations.job)
        wiring.connect(m, wgt_jobs.o, weights.job)
        accept = Signal()
        m.d.comb += [
            self.job.ready.eq(act_jobs.i.ready & wgt_jobs.i.ready & ~self.halt),
            accept.eq(self.job.valid & self.job.ready),
            act_jobs.i.valid.eq(accept),
            wgt_jobs.i.valid.eq(accept & ~self.job.payload.dump),
            act_jobs.i.payload.eq(self.job.payload),
            wgt_jobs.i.payload.eq(self.job.payload),
        ]
        wiring.connect(m, wiring.flipped(self.act), activations.act)
        wiring.connect(m, wiring.flipped(self.wgt), weights.wgt)

        # The back end: one of two readers works on the oldest full bank.
        bank, banks_left = Signal(), Signal()
        full = activations.full
        m.d.comb += [
            sequencer.job.valid.eq(full.valid),
            sequencer.job.payload.eq(full.payload),
            sequencer.bank.eq(bank),
            dump.job.valid.eq(full.valid),
            dump.job.payload.eq(full.payload),
            full.ready.eq(sequencer.job.ready | dump.job.ready),
            banks_left.eq(full.valid & full.ready),
            activations.read_bank.eq(Mux(dump.running, bank, sequencer.act_bank)),
            activations.read_addr.eq(Mux(dump.running, dump.addr, sequencer.act_addr)),
            activations.release.eq(sequencer.release_act | dump.job.ready),
            dump.codes.eq(activations.read_codes),
            dump.scales.eq(Value.cast(activations.read_scales)),
            sequencer.weights_ready.eq(weights.bank_full),
            weights.read_bank.eq(sequencer.wgt_bank),
            weights.read_group.eq(sequencer.wgt_group),
            weights.release.eq(sequencer.release_wgt),
        ]
        with m.If(banks_left):
            m.d.sync += bank.eq(~bank)

        # Operands leave the memories READ_LATENCY cycles after the issue.
        valid, issue = sequencer.valid, sequencer.issue
        for stage in range(READ_LATENCY):
            next_valid = Signal(name=f"valid_{stage}")
            next_issue = Signal.like(issue, name=f"issue_{stage}", reset_less=True)
            m.d.sync += [next_valid.eq(valid), next_issue.eq(issue)]
            valid, issue = next_valid, next_issue
        m.d.comb += [
            array.valid.eq(valid),
            array.issue.eq(issue),
            array.act_codes.eq(activations.read_codes),
            array.act_scales.eq(activations.read_scales),
            array.wgt_codes.eq(weights.codes),
            array.wgt_scales.eq(weights.scales),
            array.bias.eq(weights.bias),
        ]

        self._output(m, sequencer, array, dump)

        # What the registers show.
        known, waiting, emitting = (
            Signal(range(_JOB_COUNT), name=name) for name in ("known", "waiting", "emitting")
        )
        finish = Signal()
        m.d.comb += finish.eq(self.out.valid & self.out.ready & self.out.payload.last)
        m.d.sync += [
            known.eq(known + accept - finish),
            waiting.eq(waiting + accept - banks_left),
            emitting.eq(emitting + banks_left - finish),
            self.done.eq(finish),
        ]
        back_end = sequencer.running | dump.running
        m.d.comb += [
            self.idle.eq(known == 0),
            self.front_busy.eq(activations.busy),
            self.back_busy.eq(back_end | (emitting != 0)),
            self.act_full.eq(activations.bank_full),
            self.wgt_full.eq(weights.bank_full),
            self.frame_act.eq(activations.frame_error),
            self.nonfinite.eq(activations.nonfinite),
            self.frame_act_info.eq(activations.beats),
            self.nonfinite_info.eq(activations.group),
            self.frame_wgt.eq(weights.frame_error),
            self.frame_wgt_info.eq(weights.beats),
        ]
        m.d.sync += [
            self.issue.eq(sequencer.issued),
            self.stall_act.eq(~back_end & ~full.valid & (waiting != 0) & ~self.halt),
            self.stall_wgt.eq(sequencer.stall_wgt),
            self.stall_out.eq(sequencer.stall_out | dump.waits),
            self.stall_gap.eq(sequencer.stall_gap),
        ]
        return m

    def _output(self, m: Module, sequencer: Sequencer, array: Array, dump: DumpReader) -> None:
        """Result queue with places reserved at issue, beats, and the register of the stream."""
        hardware, layout = self.hardware, self.layout
        results = RESULT_BLOCKS * hardware.row_block
        bits = hardware.token_rows * hardware.outputs * 32
        m.submodules.result_queue = queue = Fifo(word_layout(bits), results)
        m.submodules.gearbox = gearbox = Gearbox(hardware.stream_bytes, layout.result_beats)
        wiring.connect(m, queue.o, gearbox.i)
        places = Signal(range(results + 1), init=results)
        m.d.sync += places.eq(places - sequencer.reserve + (queue.o.valid & queue.o.ready))
        m.d.comb += [
            sequencer.room.eq(places != 0),
            queue.i.valid.eq(array.result_valid),
            queue.i.payload.data.eq(Value.cast(array.results)),
            queue.i.payload.last.eq(array.result_final),
            # A dump follows the results of the jobs before it, and ends before the next ones begin.
            dump.start.eq((places == results) & ~gearbox.o.valid),
        ]
        held = Signal.like(Value.cast(self.out.payload))
        held_valid, free = Signal(), Signal()
        m.d.comb += [
            free.eq(~held_valid | (self.out.ready & ~self.halt)),
            gearbox.o.ready.eq(free),
            dump.o.ready.eq(free & ~gearbox.o.valid),
            self.out.valid.eq(held_valid & ~self.halt),
            Value.cast(self.out.payload).eq(held),
        ]
        with m.If(free):
            m.d.sync += [
                held_valid.eq(gearbox.o.valid | dump.o.valid),
                held.eq(
                    Mux(
                        gearbox.o.valid,
                        Value.cast(gearbox.o.payload),
                        Value.cast(dump.o.payload),
                    )
                ),
            ]


__all__ = ["JOB_QUEUE", "MatrixEngine"]
