# SPDX-License-Identifier: Apache-2.0
"""The quantizer's store of groups that may come twice: as they are, and as what is left of them."""

from typing import Any

from amaranth.hdl import Module, Mux, Signal, Value
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from lutvar.hw.port_types import Stream, View, view_signal

from .elastic import STORE_BEATS
from .pipeline import data_register


class TwoTermStore(wiring.Component):
    """Collects groups, and releases each as a burst when its constants are known.

    A group with `terms` keeps its places: what its burst leaves comes back into them, beat by beat
    and always in time for another burst. So nothing waits for a place that it holds itself, and
    new beats wait only while one comes back. First and second bursts are each in the order of the
    groups; a group without `terms` waits until no second burst is outstanding.

    Throughput: one burst after the other without a gap, as long as there are groups and the way
    from a burst to its second one is at most 32 cycles. Cost: one LUTRAM of four groups, one of
    their constants.
    """

    i: Stream  #: in: beats; `terms` is constant over a group
    back: View  #: in: a beat of what a first burst left, in the order of the bursts
    back_valid: Signal  #: in: it is here; takes precedence over `i`
    enter: View  #: out: the beat that enters now, of either kind
    enter_new: Signal  #: out: it is a new one
    known: Signal  #: in: the maximum of a group of new beats is known
    known_back: Signal  #: in: that of a group of beats that came back; never together with `known`
    slot: Signal  #: out: place of that group
    params: View  #: in: constants of a group
    params_slot: Signal  #: in: its place
    params_new: Signal  #: in: they are here, and of a group of new beats
    params_back: Signal  #: in: they are here, and of beats that came back
    room: Signal  #: in: there are places for the results of a burst
    start: Signal  #: out: a burst starts, its beats come from the next cycle on
    valid: Signal  #: out: a beat is here
    beat: View  #: out: it
    constants: View  #: out: constants of its group
    keep: Signal  #: out: what is left of it comes back
    second: Signal  #: out: it has come back

    def __init__(self, beat: data.StructLayout, params: data.StructLayout, beats: int) -> None:
        self.beat_layout, self.params_layout, self.beats = beat, params, beats
        self.depth = max(STORE_BEATS, 4 * beats)
        self.slots = self.depth // beats
        super().__init__(
            {
                "i": In(stream.Signature(beat)),
                "back": In(beat),
                "back_valid": In(1),
                "enter": Out(beat),
                "enter_new": Out(1),
                "known": In(1),
                "known_back": In(1),
                "slot": Out(range(self.slots)),
                "params": In(params),
                "params_slot": In(range(self.slots)),
                "params_new": In(1),
                "params_back": In(1),
                "room": In(1),
                "start": Out(1),
                "valid": Out(1),
                "beat": Out(beat),
                "constants": Out(params),
                "keep": Out(1),
                "second": Out(1),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        low = (self.beats - 1).bit_length()
        style = {"ram_style": "distributed"}
        m.submodules.memory = store = memory.Memory(
            shape=self.beat_layout, depth=self.depth, init=[], attrs=style
        )
        m.submodules.waiting = waiting = memory.Memory(
            shape=self.params_layout, depth=self.slots, init=[], attrs=style
        )
        write, read = store.write_port(), store.read_port(domain="comb")
        put_params, get_params = waiting.write_port(), waiting.read_port(domain="comb")

        # Beats in: new ones one after the other, others where they came from.
        level = Signal(range(self.depth + 1))  # places taken
        new_at, back_at = (Signal(range(self.depth), name=n) for n in ("new_at", "back_at"))
        terms = Signal(self.slots)  # of the group in each place
        put = Signal()
        m.d.comb += [
            self.i.ready.eq((level != self.depth) & ~self.back_valid),
            put.eq(self.i.valid & self.i.ready),
            Value.cast(self.enter).eq(
                Mux(self.back_valid, Value.cast(self.back), Value.cast(self.i.payload))
            ),
            self.enter_new.eq(put),
            write.en.eq(put | self.back_valid),
            write.addr.eq(Mux(self.back_valid, back_at, new_at)),
            write.data.eq(self.enter),
        ]
        with m.If(put):
            m.d.sync += [
                new_at.eq(new_at + 1),
                terms.bit_select(new_at[low:], 1).eq(self.i.payload.terms),
            ]

        # Bursts.
        first_at, second_at = (Signal(range(self.depth), name=n) for n in ("first_at", "second_at"))
        ready_first, ready_second = (
            Signal(range(self.slots + 1), name=n) for n in ("ready_first", "ready_second")
        )
        outstanding = Signal(range(self.slots + 1))  # second bursts to come
        some_first, some_second = Signal(name="some_first"), Signal(name="some_second")
        clear = Signal(init=1)
        # In a burst, after its first beat.
        busy, is_second, is_keep = (Signal(name=n) for n in ("busy", "is_second", "is_keep"))
        now_second, now_keep = Signal(name="now_second"), Signal(name="now_keep")
        get, alone = Signal(name="get"), Signal(name="alone")
        keeps = terms.bit_select(first_at[low:], 1)
        start_first, start_second = Signal(name="start_first"), Signal(name="start_second")
        m.d.comb += [
            start_second.eq(some_second & self.room & ~busy),
            start_first.eq(~some_second & some_first & (keeps | clear) & self.room & ~busy),
            self.start.eq(start_first | start_second),
            now_second.eq(Mux(busy, is_second, some_second)),
            now_keep.eq(Mux(busy, is_keep, keeps & ~some_second)),
            get.eq(self.start | busy),
            alone.eq(get & ~now_second & ~now_keep),  # the group has no second burst
            read.addr.eq(Mux(now_second, second_at, first_at)),
            get_params.addr.eq(read.addr[low:]),
        ]
        position = Signal(low)
        m.d.sync += [
            level.eq(level + put - (get & ~now_keep)),
            first_at.eq(first_at + (get & ~now_second)),
            second_at.eq(second_at + ((get & now_second) | alone)),
            back_at.eq(back_at + (self.back_valid | alone)),
            self.valid.eq(get),
        ]
        beat = data_register(m, self.beat, "beat_register")
        constants = view_signal(self.params_layout, reset_less=True)
        m.d.comb += self.constants.eq(constants)
        with m.If(get):
            m.d.sync += [
                Value.cast(beat).eq(Value.cast(read.data)),
                self.keep.eq(now_keep),
                self.second.eq(now_second),
                is_second.eq(now_second),
                is_keep.eq(now_keep),
                position.eq(position + 1),
                busy.eq(position != self.beats - 1),
            ]
        with m.If(self.start):
            m.d.sync += constants.eq(get_params.data)

        # Constants in, and what may start.
        known_at, known_back_at = (
            Signal(range(self.slots), name=n) for n in ("known_at", "known_back_at")
        )
        following_first, following_second, following = (
            Signal(range(self.slots + 1), name=n)
            for n in ("following_first", "following_second", "following_outstanding")
        )
        skipped = start_first & ~keeps
        m.d.comb += [
            self.slot.eq(Mux(self.known_back, known_back_at, known_at)),
            put_params.en.eq(self.params_new | self.params_back),
            put_params.addr.eq(self.params_slot),
            put_params.data.eq(self.params),
            following_first.eq(ready_first + self.params_new - start_first),
            following_second.eq(ready_second + self.params_back - start_second),
            following.eq(outstanding + (start_first & keeps) - start_second),
        ]
        m.d.sync += [
            known_at.eq(known_at + self.known),
            known_back_at.eq(known_back_at + (self.known_back | skipped)),
            ready_first.eq(following_first),
            ready_second.eq(following_second),
            outstanding.eq(following),
            some_first.eq(following_first != 0),
            some_second.eq(following_second != 0),
            clear.eq(following == 0),
        ]
        return m
