# SPDX-License-Identifier: Apache-2.0
"""Elastic ends for a pipeline that never stalls.

A pipeline of thousands of registers should not share one clock enable. Here it runs freely: a
`GroupStore` collects whole groups and issues one as a contiguous burst of beats, and only when an
`OutputQueue` has already set places aside for every result. Between the two, data moves one stage
in every cycle and needs valid bits only; contiguous bursts also keep the schedule of stages that
combine beats trivial.
"""

from typing import Any

from amaranth.hdl import Module, Mux, Signal, Value, unsigned
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from lutvar.contract.quant_preset import GROUP
from lutvar.hw.port_types import Stream

from .pipeline import data_register

#: A LUTRAM cell is this deep, so a shallower buffer would cost the same.
STORE_BEATS = 32


def beat_layout(lanes: int, terms: bool = False) -> data.StructLayout:
    """One beat of activations: `lanes` FP16 patterns and the treatment of their group.

    `rotate`, `dual` and `terms` (there if asked for: the group is quantized in two terms) are
    constant over a group; `last` marks the last beat of a job.
    """
    marks = ("rotate", "dual", "last", *(("terms",) if terms else ()))
    return data.StructLayout(
        {"data": data.ArrayLayout(unsigned(16), lanes), **dict.fromkeys(marks, 1)}
    )


def beats_per_group(lanes: int, group: int = GROUP) -> int:
    """Beats of one group of values. Raises ValueError when beats and groups cannot align."""
    if not 1 < lanes <= group or lanes & (lanes - 1):
        raise ValueError(f"lanes is {lanes!r}; it must be a power of two from 2 to {group}")
    if group % lanes:
        raise ValueError(f"a group of {group} values is not a whole number of beats of {lanes}")
    return group // lanes


class GroupStore(wiring.Component):
    """Collects beats; releases whole groups as contiguous bursts.

    Latency: 2 cycles from the last beat of a group to its burst. Throughput: one beat in each
    cycle. Cost: one LUTRAM of `depth` beats.
    """

    i: Stream  #: in: beats; they never wait for the other side while there is room
    ready: Signal  #: out: a whole group is here and a burst may start in this cycle
    start: Signal  #: in: start the burst; only while `ready`
    beat: Any  #: out: the burst, from one cycle after `start`, one beat in each cycle
    valid: Signal  #: out: a beat of the burst is here
    index: Signal  #: out: its position in the group

    def __init__(self, shape: Any, beats: int) -> None:
        if beats < 1 or beats & (beats - 1):
            raise ValueError(f"beats of a group are {beats}; they must be a power of two")
        self.shape, self.beats = shape, beats
        #: Two groups at least: one arrives while the other leaves.
        self.depth = max(STORE_BEATS, 2 * beats)
        super().__init__(
            {
                "i": In(stream.Signature(shape)),
                "ready": Out(1),
                "start": In(1),
                "beat": Out(shape),
                "valid": Out(1),
                "index": Out(range(beats)),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.submodules.memory = store = memory.Memory(
            shape=self.shape, depth=self.depth, init=[], attrs={"ram_style": "distributed"}
        )
        write, read = store.write_port(), store.read_port(domain="comb")

        level = Signal(range(self.depth + 1))  # beats held
        groups = Signal(range(self.depth // self.beats + 1))  # whole groups not yet started
        position = Signal(range(self.beats))  # of the beat that is read
        busy = Signal()  # in a burst, after its first beat

        put = Signal()
        get = Signal()
        whole = Signal()  # a group becomes complete
        final = position == self.beats - 1
        m.d.comb += [
            self.i.ready.eq(level != self.depth),
            put.eq(self.i.valid & self.i.ready),
            whole.eq(put & (write.addr[: position.shape().width] == self.beats - 1)),
            self.ready.eq((groups != 0) & ~busy),
            get.eq(self.start | busy),
            write.data.eq(self.i.payload),
            write.en.eq(put),
        ]
        m.d.sync += [
            write.addr.eq(write.addr + put),
            read.addr.eq(read.addr + get),
            level.eq(level + put - get),
            groups.eq(groups + whole - self.start),
            self.valid.eq(get),
        ]
        beat = data_register(m, self.beat, "beat_register")
        with m.If(get):
            m.d.sync += [
                Value.cast(beat).eq(Value.cast(read.data)),
                self.index.eq(position),
                position.eq(position + 1),
                busy.eq(~final),
            ]
        return m


class OutputQueue(wiring.Component):
    """Queue behind a pipeline without stall, with places set aside in advance.

    Latency: 2 cycles. Throughput: one result in each cycle. Cost: one LUTRAM of `depth` results.
    """

    room: Signal  #: out: a whole group of results has places
    reserve: Signal  #: in: set them aside; only while `room`
    data: Any  #: in: a result
    push: Signal  #: in: it arrives, and always finds its place
    o: Stream  #: out: results, from a register

    def __init__(self, shape: Any, beats: int, depth: int) -> None:
        if depth & (depth - 1) or depth < beats:
            raise ValueError(f"depth is {depth}; it must be a power of two and hold {beats} beats")
        self.shape, self.beats, self.depth = shape, beats, depth
        super().__init__(
            {
                "room": Out(1),
                "reserve": In(1),
                "data": In(shape),
                "push": In(1),
                "o": Out(stream.Signature(shape)),
            }
        )

    @staticmethod
    def depth_for(beats: int, latency: int) -> int:
        """Smallest depth that sustains one beat in each cycle.

        A place is taken for `latency` cycles of the pipeline, 2 cycles of this queue and up to a
        group's beats, because a group reserves all its places at once.
        """
        return 1 << (latency + 2 + 2 * beats - 1).bit_length()

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.submodules.memory = store = memory.Memory(
            shape=self.shape, depth=self.depth, init=[], attrs={"ram_style": "distributed"}
        )
        write, read = store.write_port(), store.read_port(domain="comb")
        level = Signal(range(self.depth + 1))  # results held
        free = Signal(range(self.depth + 1), init=self.depth)  # places not set aside
        pop = Signal()
        m.d.comb += [
            self.room.eq(free >= self.beats),
            pop.eq((level != 0) & (~self.o.valid | self.o.ready)),
            write.data.eq(self.data),
            write.en.eq(self.push),
        ]
        m.d.sync += [
            write.addr.eq(write.addr + self.push),
            read.addr.eq(read.addr + pop),
            level.eq(level + self.push - pop),
            free.eq(free + pop - Mux(self.reserve, self.beats, 0)),
        ]
        with m.If(~self.o.valid | self.o.ready):
            m.d.sync += self.o.valid.eq(pop)
        payload = data_register(m, self.o.payload, "payload")
        with m.If(pop):
            m.d.sync += Value.cast(payload).eq(Value.cast(read.data))
        return m
