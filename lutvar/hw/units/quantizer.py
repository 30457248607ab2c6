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
from .two_term_store import TwoTermStore

__all__ = ["Quantizer", "QuantizerFormats", "QuantizerLane", "code_layout"]


def code_layout(lanes: int, bits: int, terms: bool = False) -> data.StructLayout:
    """One beat of codes. The scales are those of the beat's group, equal in all its beats.

    second: the codes are those of term 2; there if asked for.
    """
    return data.StructLayout(
        {
            **({"second": 1} if terms else {}),
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
        terms: beats have `terms`: groups of the plain format that are quantized in two terms. Those
            of term 1 come out in the order of the groups, and so do those of term 2, later.

    Latency, first beat in to first beat out: `group / lanes + LATENCY + log2(lanes)` cycles, with
    `terms` 4 more, and some 30 more to the second term. Throughput: one beat in each cycle,
    sustained: while one group is quantized, the next one's maxima are gathered. A group in two
    terms takes twice as long; one in a single term waits until all before it have left. Cost: see
    `QuantizerLane`, one DSP for each lane, two or three block memories. Raises ValueError for
    formats that do not fit (`QuantizerFormats`).
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
        terms: bool = False,
    ) -> None:
        self.lanes, self.beats, self.group = lanes, beats_per_group(lanes, group), group
        self.formats = QuantizerFormats(plain, dual, ties, terms)
        super().__init__(
            {
                "i": In(stream.Signature(beat_layout(lanes, terms))),
                "o": Out(stream.Signature(code_layout(lanes, plain.bits, terms))),
                "nonfinite": Out(1),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        fmt, lanes, beats = self.formats, self.lanes, self.beats
        layout = code_layout(lanes, fmt.plain.bits, fmt.terms)
        latency = QuantizerLane.LATENCY

        m.submodules.maxima = maxima = GroupMaxima(lanes, self.group, fmt.rest_bits)
        m.submodules.scales = scales = GroupScales(fmt)
        m.submodules.queue = queue = OutputQueue(
            layout, beats, OutputQueue.depth_for(beats, latency)
        )
        wiring.connect(m, wiring.flipped(self.o), queue.o)
        accept = self.i.valid & self.i.ready
        m.d.comb += [
            scales.negative.eq(maxima.negative),
            scales.positive.eq(maxima.positive),
            scales.dual.eq(maxima.dual),
            scales.valid.eq(maxima.done),
        ]
        # Two steps, because up to 128 lanes are searched.
        infinite = Signal(lanes, reset_less=True)
        infinite_valid = Signal()
        m.d.sync += [
            infinite.eq(Cat(exponent(self.i.payload.data[k]).all() for k in range(lanes))),
            infinite_valid.eq(accept),
            self.nonfinite.eq(infinite.any() & infinite_valid),
        ]

        store: TwoTermStore | GroupStore
        if fmt.terms:
            store, params = self._two_terms(m, maxima, scales, queue)
        else:
            store, params = self._one_term(m, maxima, scales, queue)

        dual = delay_stages(m, params.dual, latency - 1, "dual")
        codes, rests = [], []
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
            if fmt.terms:
                rests.append(lane.rest)
        marks = [store.second] if isinstance(store, TwoTermStore) else []
        if isinstance(store, TwoTermStore):
            back = valid_line(m, store.valid & store.keep, QuantizerLane.REST_LATENCY, "back_line")
            m.d.comb += [
                store.back_valid.eq(back[-1]),
                *(store.back.data[k].eq(rest) for k, rest in enumerate(rests)),
            ]
        follow = Cat(params.scale, params.scale_neg, params.dual, store.beat.last)
        followed = Cat(delay_stages(m, Cat(follow, *marks), latency, "follow"))
        history = valid_line(m, store.valid, latency, "history")
        ends = followed[len(follow) :]
        m.d.comb += [
            Value.cast(queue.data).eq(Cat(ends, *codes, followed[: len(follow)])),
            queue.push.eq(history[-1]),
        ]
        return m

    def _one_term(
        self, m: Module, maxima: GroupMaxima, scales: GroupScales, queue: OutputQueue
    ) -> tuple[GroupStore, Any]:
        """Each group is released once. Returns: its store, its constants."""
        fmt, beats = self.formats, self.beats
        m.submodules.store = store = GroupStore(beat_layout(self.lanes), beats)
        wiring.connect(m, wiring.flipped(self.i), store.i)
        m.d.comb += [
            maxima.beat.eq(self.i.payload),
            maxima.valid.eq(self.i.valid & self.i.ready),
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
        self._signless(m, maxima)
        return store, params

    def _two_terms(
        self, m: Module, maxima: GroupMaxima, scales: GroupScales, queue: OutputQueue
    ) -> tuple[TwoTermStore, Any]:
        """Groups may be released twice. Returns: their store, the constants of the burst."""
        m.submodules.store = store = TwoTermStore(
            beat_layout(self.lanes, terms=True), GroupScales.layout(self.formats), self.beats
        )
        assert store.slots == scales.slots
        wiring.connect(m, wiring.flipped(self.i), store.i)
        m.d.comb += [
            maxima.beat.eq(store.enter),
            maxima.valid.eq(store.enter_new),
            maxima.back.eq(store.back_valid),
            scales.rest.eq(maxima.rest),
            scales.back.eq(maxima.done_back),
            scales.slot.eq(store.slot),
            store.known.eq(maxima.done),
            store.known_back.eq(maxima.done_back),
            store.params.eq(scales.params),
            store.params_slot.eq(scales.done_slot),
            store.params_new.eq(scales.done),
            store.params_back.eq(scales.done_back),
            store.room.eq(queue.room),
            queue.reserve.eq(store.start),
        ]
        self._signless(m, maxima)
        return store, store.constants

    def _signless(self, m: Module, maxima: GroupMaxima) -> None:
        """Without a dual format one maximum of magnitudes; that of negatives is not built."""
        if self.formats.dual is None:
            m.d.comb += [maxima.beat.data[k][15].eq(0) for k in range(self.lanes)]
