# SPDX-License-Identifier: Apache-2.0
"""The front end: FP16 rows in, banks of codes and scales out."""

from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal, Value, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from lutvar.contract.config import GROUP, HardwareConfig, QuantConfig
from lutvar.contract.hadamard import sign_vector
from lutvar.hw.units.hadamard import Hadamard
from lutvar.hw.units.quantizer import Quantizer

from .job import bank_layout, beat_layout, job_layout
from .memory import ChunkMemory, Fifo
from .walk import RowWalk

BANKS = 2


class BankWriter(wiring.Component):
    """Two banks of codes and scales, and the sequencer that fills them from the quantizer.

    Members:
        job: jobs in the order of their codes.
        codes: beats of codes.
        full: jobs whose bank is complete, in order; the first is in bank 0, then alternating.
        filled: one cycle for each completed bank.
        read_bank, read_addr, read_codes, read_scales: codes [T][128] and scales [T][scale, negative
            scale] of a word, ``READ_LATENCY`` cycles later. Only banks that are full may be read.

    Whoever feeds ``job`` makes sure that the bank is free. One beat in each cycle; one idle cycle
    between jobs.
    """

    def __init__(self, hardware: HardwareConfig, quantizer: Quantizer, code_bits: int) -> None:
        self.hardware, self.lanes, self.code_bits = hardware, quantizer.lanes, code_bits
        self.code_shape = quantizer.o.payload.shape()
        rows = hardware.token_rows
        super().__init__(
            {
                "job": In(stream.Signature(job_layout(hardware))),
                "codes": In(stream.Signature(self.code_shape)),
                "full": Out(stream.Signature(bank_layout(hardware))),
                "filled": Out(1),
                "read_bank": In(1),
                "read_addr": In(range(hardware.buffer_vectors)),
                "read_codes": Out(rows * GROUP * code_bits),
                "read_scales": Out(data.ArrayLayout(unsigned(32), rows)),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        hardware, lanes = self.hardware, self.lanes
        beats, rows, depth = GROUP // lanes, hardware.token_rows, hardware.buffer_vectors
        m.submodules.walk = walk = RowWalk(hardware, beats)
        m.submodules.codes_store = codes = ChunkMemory(
            rows * GROUP * self.code_bits, lanes * self.code_bits, BANKS * depth
        )
        m.submodules.scales_store = scales = ChunkMemory(rows * 32, 32, BANKS * depth)
        m.submodules.full_store = full = Fifo(bank_layout(hardware), BANKS + 2)
        wiring.connect(m, wiring.flipped(self.full), full.o)

        # Position of each beat that the quantizer delivers.
        take, bank = Signal(), Signal()
        m.d.comb += [
            walk.rows.eq(self.job.payload.rows),
            walk.groups.eq(self.job.payload.groups),
            walk.load.eq(self.job.valid & ~walk.active),
            self.codes.ready.eq(walk.active),
            take.eq(self.codes.valid & walk.active),
            walk.step.eq(take),
            self.job.ready.eq(take & walk.final),
        ]
        with m.If(take & walk.final):
            m.d.sync += bank.eq(~bank)

        # One register before the memories, which spread over many block RAMs.
        address = Signal(range(BANKS * depth), reset_less=True)
        slot = Signal.like(walk.slot, reset_less=True)
        beat = Signal.like(walk.beat, reset_less=True)
        payload = Signal(self.code_shape, reset_less=True)
        write, write_scale = Signal(), Signal()
        finished = Signal(bank_layout(hardware), reset_less=True)
        m.d.sync += [
            address.eq(walk.address + Mux(bank, depth, 0)),
            slot.eq(walk.slot),
            beat.eq(walk.beat),
            Value.cast(payload).eq(Value.cast(self.codes.payload)),
            write.eq(take),
            write_scale.eq(take & walk.group_end),
            self.filled.eq(take & walk.final),
            finished.job.eq(self.job.payload),
            finished.words.eq(walk.address + 1),
        ]
        m.d.comb += [
            codes.write_en.eq(write),
            codes.write_addr.eq(address),
            codes.write_chunk.eq(Cat(beat, slot)),
            codes.write_data.eq(Value.cast(payload.codes)),
            scales.write_en.eq(write_scale),
            scales.write_addr.eq(address),
            scales.write_chunk.eq(slot),
            scales.write_data.eq(Cat(payload.scale, payload.scale_neg)),
            # Never blocked: there are as many places as banks, and more.
            full.i.valid.eq(self.filled),
            full.i.payload.eq(finished),
        ]

        read_addr = self.read_addr + Mux(self.read_bank, depth, 0)
        m.d.comb += [
            codes.read_addr.eq(read_addr),
            scales.read_addr.eq(read_addr),
            self.read_codes.eq(codes.read_data),
            Value.cast(self.read_scales).eq(scales.read_data),
        ]
        return m


class Activations(wiring.Component):
    """Everything between ``s_axis_act`` and the array: intake, transform, quantizer, banks.

    Members:
        job: validated jobs (``job_layout``), in order.
        act: beats of FP16 rows; TLAST on the last beat of each job.
        full: complete banks with their jobs, see ``BankWriter``; ``read_*`` likewise.
        release: one cycle for each bank that has been read for the last time.
        halt: take nothing.
        busy: rows of a job are on their way into a bank. bank_full: banks that hold a job.
        frame_error, nonfinite: one cycle after the offending beat. beats: beats taken in this job,
            group: index of the group in this job, both of the offending beat.

    Throughput: one beat in each cycle; one idle cycle between jobs. The rows of one job are taken
    while those of the one before are still in the pipeline.
    """

    def __init__(self, hardware: HardwareConfig, quant: QuantConfig) -> None:
        self.hardware, self.quant = hardware, quant
        lanes = hardware.stream_bytes // 2
        self.transform = Hadamard(lanes, sign_vector(quant.hadamard_seed))
        self.quantizer = Quantizer(lanes, quant.plain_format, quant.dual_format, quant.ties)
        self.writer = BankWriter(hardware, self.quantizer, quant.code_bits)
        forwarded = {
            name: member
            for name, member in self.writer.signature.members.items()
            if name.startswith("read_") or name == "full"
        }
        super().__init__(
            {
                "job": In(stream.Signature(job_layout(hardware))),
                "act": In(stream.Signature(beat_layout(hardware.stream_bytes))),
                "release": In(1),
                "halt": In(1),
                "busy": Out(1),
                "bank_full": Out(BANKS),
                "frame_error": Out(1),
                "nonfinite": Out(1),
                "beats": Out(32),
                "group": Out(32),
                **forwarded,
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        hardware = self.hardware
        m.submodules.transform = transform = self.transform
        m.submodules.quantizer = quantizer = self.quantizer
        m.submodules.writer = writer = self.writer
        m.submodules.walk = walk = RowWalk(hardware, quantizer.beats)
        # Jobs whose rows have begun to arrive, for the writer.
        m.submodules.started = started = Fifo(job_layout(hardware), BANKS + 2)
        wiring.connect(m, transform.o, quantizer.i)
        wiring.connect(m, quantizer.o, writer.codes)
        wiring.connect(m, started.o, writer.job)
        wiring.connect(m, wiring.flipped(self.full), writer.full)
        for name in ("read_bank", "read_addr"):
            m.d.comb += getattr(writer, name).eq(getattr(self, name))
        for name in ("read_codes", "read_scales"):
            m.d.comb += Value.cast(getattr(self, name)).eq(Value.cast(getattr(writer, name)))

        # A job begins when a bank is free, or is being emptied by then.
        taken = Signal(range(BANKS + 1))  # banks promised or full
        begin = Signal()
        rotate, dual = Signal(), Signal()
        m.d.comb += [
            begin.eq(self.job.valid & ~walk.active & (taken != BANKS)),
            walk.load.eq(begin),
            walk.rows.eq(self.job.payload.rows),
            walk.groups.eq(self.job.payload.groups),
            self.job.ready.eq(begin),
            started.i.valid.eq(begin),  # never blocked: no more jobs than banks
            started.i.payload.eq(self.job.payload),
        ]
        m.d.sync += taken.eq(taken + begin - self.release)
        with m.If(begin):
            m.d.sync += [rotate.eq(self.job.payload.rotate), dual.eq(self.job.payload.dual)]

        flows = walk.active & ~self.halt
        take = Signal()
        m.d.comb += [
            self.act.ready.eq(flows & transform.i.ready),
            transform.i.valid.eq(flows & self.act.valid),
            Value.cast(transform.i.payload.data).eq(self.act.payload.data),
            transform.i.payload.rotate.eq(rotate),
            transform.i.payload.dual.eq(dual),
            transform.i.payload.last.eq(walk.final),
            take.eq(self.act.valid & self.act.ready),
            walk.step.eq(take),
        ]

        # Checks look at what arrives, not at what the transform makes of it: a group with a single
        # infinity may well come out of it finite.
        patterns = [self.act.payload.data.word_select(k, 16) for k in range(quantizer.lanes)]
        m.d.sync += [
            self.frame_error.eq(take & (self.act.payload.last != walk.final)),
            self.nonfinite.eq(take & Cat(p[10:15].all() for p in patterns).any()),
        ]
        group_ended = Signal()
        with m.If(take):
            m.d.sync += [self.beats.eq(self.beats + 1), group_ended.eq(walk.group_end)]
            with m.If(group_ended):
                m.d.sync += self.group.eq(self.group + 1)
        with m.If(begin):
            m.d.sync += [self.beats.eq(0), self.group.eq(0), group_ended.eq(0)]

        # Banks fill and empty in turn.
        fill, empty = Signal(), Signal()
        with m.If(writer.filled):
            m.d.sync += [fill.eq(~fill), self.bank_full.bit_select(fill, 1).eq(1)]
        with m.If(self.release):
            m.d.sync += [empty.eq(~empty), self.bank_full.bit_select(empty, 1).eq(0)]
        loading = Signal(range(BANKS + 1))  # jobs begun, bank not complete
        m.d.sync += loading.eq(loading + begin - writer.filled)
        m.d.comb += self.busy.eq(loading != 0)
        return m
