# SPDX-License-Identifier: Apache-2.0
"""The way out: words to beats, and the reader that dumps a bank."""

from typing import Any

from amaranth.hdl import Cat, Const, Module, Signal, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from lutvar.contract.config import GROUP, HardwareConfig, QuantConfig
from lutvar.contract.layout import StreamLayout

from .job import bank_layout, beat_layout
from .memory import READ_LATENCY


def word_layout(bits: int) -> data.StructLayout:
    """A word for the output stream; ``last`` marks the last one of a job."""
    return data.StructLayout({"data": unsigned(bits), "last": 1})


class Gearbox(wiring.Component):
    """Cuts words into beats, least significant first; the last beat of a word with ``last`` has it.

    A word is consumed with its last beat. Throughput: one beat in each cycle, no gap between words.
    Latency 1. Cost: a multiplexer of ``beats`` inputs for each bit of a beat, and a register.
    """

    def __init__(self, stream_bytes: int, beats: int) -> None:
        self.beats, self.width = beats, stream_bytes * 8
        super().__init__(
            {
                "i": In(stream.Signature(word_layout(beats * self.width))),
                "o": Out(stream.Signature(beat_layout(stream_bytes))),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        free, final = Signal(), Signal()
        word = self.i.payload.data
        beat = word
        if self.beats == 1:
            m.d.comb += final.eq(1)
        else:
            position = Signal(range(self.beats))
            beat = word.word_select(position, self.width)
            m.d.comb += final.eq(position == self.beats - 1)
            with m.If(free & self.i.valid):
                m.d.sync += position.eq(position + 1)
                with m.If(final):
                    m.d.sync += position.eq(0)
        m.d.comb += [
            free.eq(~self.o.valid | self.o.ready),
            self.i.ready.eq(free & final),
        ]
        with m.If(free):
            m.d.sync += [
                self.o.valid.eq(self.i.valid),
                self.o.payload.data.eq(beat),
                self.o.payload.last.eq(self.i.payload.last & final),
            ]
        return m


class DumpReader(wiring.Component):
    """Streams a bank out as it is: for each word the scale pairs, then the codes.

    Members:
        job: banks in order; those without ``dump`` are left to others.
        start: the output is free; looked at when a job begins.
        halt: send nothing.
        addr, codes, scales: port of the bank, ``READ_LATENCY``.
        o: beats.
        waits: a word is ready, and the output does not take it.
        running: a bank is being dumped, until its last beat is gone.

    One word in ``beats + READ_LATENCY + 1`` cycles: dumping is for diagnosis.
    """

    def __init__(self, hardware: HardwareConfig, quant: QuantConfig) -> None:
        self.hardware = hardware
        layout = StreamLayout.of(hardware, quant)
        width = hardware.stream_bytes * 8
        self.scale_bits = layout.dump_scale_beats * width
        self.code_bits = layout.dump_code_beats * width
        self.gearbox = Gearbox(
            hardware.stream_bytes, layout.dump_scale_beats + layout.dump_code_beats
        )
        super().__init__(
            {
                "job": In(stream.Signature(bank_layout(hardware))),
                "start": In(1),
                "halt": In(1),
                "addr": Out(range(hardware.buffer_vectors)),
                "codes": In(hardware.token_rows * GROUP * quant.code_bits),
                "scales": In(hardware.token_rows * 32),
                "o": Out(stream.Signature(beat_layout(hardware.stream_bytes))),
                "waits": Out(1),
                "running": Out(1),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.submodules.gearbox = gearbox = self.gearbox
        wiring.connect(m, gearbox.o, wiring.flipped(self.o))
        age = Signal(READ_LATENCY + 1)  # one-hot: cycles that the address has stood
        left = Signal.like(self.job.payload.words)  # words after this one
        word = Cat(
            self.scales,
            Const(0, self.scale_bits - len(self.scales)),
            self.codes,
            Const(0, self.code_bits - len(self.codes)),
        )
        over = Signal()
        m.d.comb += [
            gearbox.i.payload.data.eq(word),
            gearbox.i.payload.last.eq(left == 0),
            gearbox.i.valid.eq(age[-1] & ~self.halt),
            self.waits.eq(gearbox.i.valid & ~gearbox.i.ready),
            over.eq(self.o.valid & self.o.ready & self.o.payload.last),
            self.job.ready.eq(over),
        ]
        m.d.sync += age.eq(Cat(Const(0, 1), age[:-2], age[-2:].any()))
        with m.If(gearbox.i.valid & gearbox.i.ready):
            m.d.sync += [self.addr.eq(self.addr + 1), left.eq(left - 1), age.eq(left != 0)]
        with m.If(over):
            m.d.sync += self.running.eq(0)
        with m.Elif(~self.running & self.start & self.job.valid & self.job.payload.job.dump):
            m.d.sync += [
                self.running.eq(1),
                self.addr.eq(0),
                left.eq(self.job.payload.words - 1),
                age.eq(1),
            ]
        return m
