# SPDX-License-Identifier: Apache-2.0
"""LUT quantizer: groups of FP16 values to low-bit codes and a scale, without a divider."""

from typing import Any

from amaranth.hdl import Cat, Module, Signal, Value, unsigned
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from lutvar.contract.formats import NumberFormat
from lutvar.contract.formats.ties import TieRule
from lutvar.contract.quant_preset import GROUP
from lutvar.hw.port_types import Stream, view_signal
from lutvar.hw.verilog import place

from .elastic import GroupStore, OutputQueue, beat_layout, beats_per_group
from .fp16 import exponent
from .group_scales import GroupMaxima, GroupScales
from .pipeline import delay_stages, valid_line
from .quantizer_lane import QuantizerFormats, QuantizerLane

__all__ = ["Quantizer", "QuantizerFormats", "QuantizerLane", "code_layout"]


def code_layout(lanes: int, bits: int) -> data.StructLayout:
    """One beat of codes. The scales are those of the beat's group, equal in all its beats."""
    return data.StructLayout(
        {
            "codes": data.ArrayLayout(unsigned(bits), lanes),
            "scale": 16,
            "scale_neg": 16,
            "dual": 1,
            "last": 1,
        }
    )


class Quantizer(wiring.Component):
    """FP16 beats to beats of codes with the group's scales.

    Args:
        lanes: values in a beat, a power of two from 2 to the group.
        plain: single-scale format, for groups with `dual = 0`.
        dual: dual format, for groups with `dual = 1`; None when there are none.
        ties: `even`, `up` or `down`.
        group: values that share a scale, a power of two; 128 for activations.

    Latency, first beat in to first beat out: `group / lanes + LATENCY + log2(lanes)` cycles.
    Throughput: one beat in each cycle, sustained: while one group is quantized, the next one's
    maxima are gathered. Cost: see `QuantizerLane`, one DSP for each lane, two or three block
    memories. Raises ValueError for formats that do not fit (`QuantizerFormats`).
    """

    #: From a group's last beat in to its first beat out, without the tree of maxima.
    LATENCY = 13

    i: Stream  #: in: beats (`beat_layout`; `rotate` is ignored), groups aligned from reset
    #: out: beats of codes (`code_layout`). `scale` is the group's maximum (the positive half's,
    #: when dual); `scale_neg` the derived scale of a dual group's negative half, else 0
    o: Stream
    #: out: one cycle, 2 cycles after a value with exponent field 31 was accepted. A rotation may
    #: average such a value away, so check the device's input before it
    nonfinite: Signal

    def __init__(
        self,
        lanes: int,
        plain: NumberFormat,
        dual: NumberFormat | None,
        ties: TieRule = TieRule.EVEN,
        group: int = GROUP,
    ) -> None:
        self.lanes, self.beats, self.group = lanes, beats_per_group(lanes, group), group
        self.formats = QuantizerFormats(plain, dual, ties)
        super().__init__(
            {
                "i": In(stream.Signature(beat_layout(lanes))),
                "o": Out(stream.Signature(code_layout(lanes, plain.bits))),
                "nonfinite": Out(1),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        fmt, lanes, beats = self.formats, self.lanes, self.beats
        layout = code_layout(lanes, fmt.plain.bits)
        latency = QuantizerLane.LATENCY

        m.submodules.store = store = GroupStore(beat_layout(lanes), beats)
        m.submodules.maxima = maxima = GroupMaxima(lanes, self.group)
        m.submodules.scales = scales = GroupScales(fmt)
        m.submodules.queue = queue = OutputQueue(
            layout, beats, OutputQueue.depth_for(beats, latency)
        )
        wiring.connect(m, wiring.flipped(self.i), store.i)
        wiring.connect(m, wiring.flipped(self.o), queue.o)
        accept = self.i.valid & self.i.ready
        m.d.comb += [
            maxima.beat.eq(self.i.payload),
            maxima.valid.eq(accept),
            scales.negative.eq(maxima.negative),
            scales.positive.eq(maxima.positive),
            scales.dual.eq(maxima.dual),
            scales.valid.eq(maxima.done),
        ]
        if fmt.dual is None:  # one maximum of magnitudes: the negative values' one is not built
            m.d.comb += [maxima.beat.data[k][15].eq(0) for k in range(lanes)]

        # Two steps, because up to 128 lanes are searched.
        infinite = Signal(lanes, reset_less=True)
        infinite_valid = Signal()
        m.d.sync += [
            infinite.eq(Cat(exponent(self.i.payload.data[k]).all() for k in range(lanes))),
            infinite_valid.eq(accept),
            self.nonfinite.eq(infinite.any() & infinite_valid),
        ]

        # Constants of finished groups wait here for their turn. As many fit as groups in the
        # store, so the pipeline before needs no stall.
        depth = max(2, store.depth // beats)
        waiting = memory.Memory(
            shape=GroupScales.layout(fmt), depth=depth, init=[], attrs={"ram_style": "distributed"}
        )
        m.submodules.waiting = waiting
        write, read = waiting.write_port(), waiting.read_port(domain="comb")
        level = Signal(range(depth + 1))
        start = Signal()
        m.d.comb += [
            write.data.eq(scales.params),
            write.en.eq(scales.done),
            start.eq(store.ready & queue.room & (level != 0)),
            store.start.eq(start),
            queue.reserve.eq(start),
        ]
        params = view_signal(GroupScales.layout(fmt), reset_less=True)
        m.d.sync += [
            write.addr.eq(write.addr + scales.done),
            read.addr.eq(read.addr + start),
            level.eq(level + scales.done - start),
        ]
        with m.If(start):
            m.d.sync += params.eq(read.data)

        dual = delay_stages(m, params.dual, latency - 1, "dual")
        codes = []
        for k in range(lanes):
            lane = QuantizerLane(fmt)
            place(m, platform, f"lane_{k}", lane, fmt.module)
            m.d.comb += [
                lane.x.eq(store.beat.data[k]),
                lane.dual.eq(dual),
                lane.reciprocal.eq(params.reciprocal),
                lane.exponent.eq(params.exponent),
            ]
            codes.append(lane.code)
        follow = Cat(params.scale, params.scale_neg, params.dual, store.beat.last)
        followed = delay_stages(m, follow, latency, "follow")
        history = valid_line(m, store.valid, latency, "history")
        m.d.comb += [
            Value.cast(queue.data).eq(Cat(*codes, followed)),
            queue.push.eq(history[-1]),
        ]
        return m
