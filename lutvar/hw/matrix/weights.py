# SPDX-License-Identifier: Apache-2.0
"""The weight side: stream in, two banks of one tile each out."""

from typing import Any

from amaranth.hdl import Module, Mux, Signal, Value, unsigned
from amaranth.lib import data, enum, stream, wiring
from amaranth.lib.wiring import In, Out

from lutvar.contract.config import GROUP, HardwareConfig, QuantConfig
from lutvar.contract.layout import StreamLayout

from .job import beat_layout, job_layout
from .memory import ChunkMemory

BANKS = 2


class Section(enum.Enum, shape=2):
    """Parts of a tile in the stream."""

    BIAS = 0
    SCALES = 1
    CODES = 2


class Weights(wiring.Component):
    """Fills a weight bank while the array reads the other.

    Members:
        job: jobs in order (``groups``, ``tiles``), jobs that dump left out. A job's weights load as
            soon as it is queued and a bank is free, whatever its activations do.
        wgt: beats; TLAST on the last beat of each job.
        release: one cycle for each bank that has been read for the last time.
        halt: take nothing.
        bank_full: banks that hold a tile. The first tile after reset is in bank 0,
            then alternating.
        read_bank, read_group: address; ``READ_LATENCY`` cycles later ``codes`` [N][128],
            ``scales`` [N] FP16, ``bias`` [N] float32.
        frame_error: one cycle after the offending beat. beats: beats taken in this job, of the
            same beat.

    Throughput: one beat in each cycle; one idle cycle between jobs.
    """

    def __init__(self, hardware: HardwareConfig, quant: QuantConfig) -> None:
        self.hardware, self.code_bits = hardware, quant.code_bits
        self.layout = StreamLayout.of(hardware, quant)
        outputs = hardware.outputs
        super().__init__(
            {
                "job": In(stream.Signature(job_layout(hardware))),
                "wgt": In(stream.Signature(beat_layout(hardware.stream_bytes))),
                "release": In(1),
                "halt": In(1),
                "bank_full": Out(BANKS),
                "read_bank": In(1),
                "read_group": In(range(hardware.max_groups)),
                "codes": Out(outputs * GROUP * quant.code_bits),
                "scales": Out(data.ArrayLayout(unsigned(16), outputs)),
                "bias": Out(data.ArrayLayout(unsigned(32), outputs)),
                "frame_error": Out(1),
                "beats": Out(32),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        hardware, layout = self.hardware, self.layout
        width, outputs, groups = hardware.stream_bytes * 8, hardware.outputs, hardware.max_groups
        m.submodules.codes_store = codes = ChunkMemory(
            outputs * GROUP * self.code_bits, width, BANKS * groups
        )
        m.submodules.scales_store = scales = ChunkMemory(
            outputs * 16, min(width, outputs * 16), BANKS * groups
        )
        m.submodules.bias_store = bias = ChunkMemory(outputs * 32, min(width, outputs * 32), BANKS)
        lengths = {
            Section.BIAS: layout.bias_beats,
            Section.SCALES: layout.scale_beats,
            Section.CODES: layout.weight_code_beats,
        }

        # Position. Ends are known a beat ahead, in bits of their own.
        active = Signal()
        section = Signal(Section)
        beat = Signal(range(max(lengths.values())))
        last_beat = Signal()  # of the section
        group = Signal(range(groups))
        last_group = Signal()
        tiles_left = Signal.like(self.job.payload.tiles)  # after the current one
        last_tile = Signal()
        bank = Signal()

        following = Signal(Section)
        last_follows = Signal()  # the beat after this one is the last of its section
        with m.Switch(section):
            for name, successor in (
                (Section.BIAS, Section.SCALES),
                (Section.SCALES, Section.CODES),
                (Section.CODES, Section.SCALES),
            ):
                with m.Case(name):
                    m.d.comb += [
                        following.eq(successor),
                        last_follows.eq(
                            Mux(last_beat, lengths[successor] == 1, beat + 2 == lengths[name])
                        ),
                    ]
        take, group_end, tile_end, final = Signal(), Signal(), Signal(), Signal()
        m.d.comb += [
            self.wgt.ready.eq(active & ~self.bank_full.bit_select(bank, 1) & ~self.halt),
            take.eq(self.wgt.valid & self.wgt.ready),
            group_end.eq(last_beat & (section == Section.CODES)),
            tile_end.eq(group_end & last_group),
            final.eq(tile_end & last_tile),
            self.job.ready.eq(take & final),
        ]
        tile_begins = [
            section.eq(Section.BIAS),
            last_beat.eq(lengths[Section.BIAS] == 1),
            group.eq(0),
            last_group.eq(self.job.payload.groups == 1),
        ]
        with m.If(take):
            m.d.sync += [
                beat.eq(Mux(last_beat, 0, beat + 1)),
                last_beat.eq(last_follows),
                self.beats.eq(self.beats + 1),
            ]
            with m.If(last_beat):
                m.d.sync += section.eq(following)
            with m.If(group_end):
                m.d.sync += [
                    group.eq(group + 1),
                    last_group.eq(group + 2 == self.job.payload.groups),
                ]
            with m.If(tile_end):
                m.d.sync += [
                    *tile_begins,
                    tiles_left.eq(tiles_left - 1),
                    last_tile.eq(tiles_left == 1),
                    bank.eq(~bank),
                ]
            with m.If(final):
                m.d.sync += active.eq(0)
        with m.Elif(self.job.valid & ~active):
            m.d.sync += [
                *tile_begins,
                active.eq(1),
                tiles_left.eq(self.job.payload.tiles - 1),
                last_tile.eq(self.job.payload.tiles == 1),
                self.beats.eq(0),
            ]
        m.d.sync += self.frame_error.eq(take & (self.wgt.payload.last != final))

        # One register before the memories, which spread over many block RAMs.
        beat_data = Signal(width, reset_less=True)
        position = Signal.like(beat, reset_less=True)
        address = Signal(range(BANKS * groups), reset_less=True)
        target = Signal(reset_less=True)
        writes = {name: Signal(name=f"write_{name.name.lower()}") for name in Section}
        m.d.sync += [
            beat_data.eq(self.wgt.payload.data),
            position.eq(beat),
            address.eq(group + Mux(bank, groups, 0)),
            target.eq(bank),
            *(write.eq(take & (section == name)) for name, write in writes.items()),
        ]
        read_address = Signal(range(BANKS * groups))
        m.d.comb += read_address.eq(self.read_group + Mux(self.read_bank, groups, 0))
        for name, store, write_addr, read_addr, output in (
            (Section.BIAS, bias, target, self.read_bank, self.bias),
            (Section.SCALES, scales, address, read_address, self.scales),
            (Section.CODES, codes, address, read_address, self.codes),
        ):
            m.d.comb += [
                store.write_en.eq(writes[name]),
                store.write_addr.eq(write_addr),
                store.write_chunk.eq(position),
                store.write_data.eq(beat_data),
                store.read_addr.eq(read_addr),
                Value.cast(output).eq(store.read_data),
            ]

        # A bank counts as full one cycle after its last beat, when that beat is in the memory.
        filled, fill, empty = Signal(), Signal(), Signal()
        m.d.sync += filled.eq(take & tile_end)
        with m.If(filled):
            m.d.sync += [fill.eq(~fill), self.bank_full.bit_select(fill, 1).eq(1)]
        with m.If(self.release):
            m.d.sync += [empty.eq(~empty), self.bank_full.bit_select(empty, 1).eq(0)]
        return m
