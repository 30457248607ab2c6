# SPDX-License-Identifier: Apache-2.0
"""Queues and elastic stages, at all depths in use."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from amaranth.hdl import Module, Signal, unsigned
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from lutvar.hw.axi.queue import WideQueue
from lutvar.hw.units.count import Level
from lutvar.hw.units.elastic import GroupStore, OutputQueue
from lutvar.hw.units.memory import Fifo
from lutvar.sim.formal.harness import Check, implies
from lutvar.sim.formal.property import Mutant, Property

from .order import Follow, prompt, stable

#: Words in the proofs; queues do not look at what they carry.
WIDTH = 2
#: Sizes in the shipped configurations; a test compares them with what these build.
WIDE_DEPTHS = (16, 32, 64, 128, 256, 512)
FIFO_DEPTHS = (2, 4, 8, 16, 32, 64)
#: (places, initial count)
LEVELS = (
    (1, 0), (3, 0), (4, 0), (7, 0), (8, 0), (10, 0), (15, 0), (16, 0), (31, 0), (32, 0), (63, 0),
    (64, 0), (128, 0), (128, 128), (256, 0), (512, 0), (4096, 0),
)  # fmt: skip
#: (beats of a group, depth)
STORES = ((2, 32), (8, 32))
OUTPUT_QUEUES = ((1, 64), (2, 16), (8, 32), (8, 64))
_QUEUE = "lutvar.hw.axi.queue"
_COUNT = "lutvar.hw.units.count"
_MEMORY = "lutvar.hw.units.memory"
_ELASTIC = "lutvar.hw.units.elastic"
_ORDER = "items come out as they went in: none lost, doubled or reordered"


def _wide_queue(c: Check[WideQueue]) -> None:
    q, depth = c.dut, c.dut.depth
    c.assume(~q.push | q.room)
    f = Follow(c, "words", q.push, q.data, q.o.valid & q.o.ready, q.o.payload, depth + 2)
    # In the RAM are all words but those that were taken from it.
    in_ram = Signal(range(depth + 1))
    c.m.d.sync += in_ram.eq(in_ram + q.push - q.taken)
    c.require("room is exact", q.room == (in_ram != depth))
    c.require("taken from what is there", implies(q.taken, in_ram != 0))
    stable(c, "o", q.o.valid, q.o.ready, q.o.payload)
    age = prompt(c, "offer", f.inside != 0, q.o.valid, 3)

    level, staged = c.probe("dut.level", range(depth + 1)), c.probe("dut.staged")
    write, read = (c.probe(f"dut.{n}_addr", range(depth)) for n in ("write", "read"))
    c.lemma("level counts the RAM", level == in_ram)
    c.lemma("level's answer", c.probe("dut.level_some") == (level != 0))
    c.lemma("age", implies((f.inside != 0) & ~q.o.valid, age <= staged))
    c.lemma("output", implies(f.is_next & q.o.valid, q.o.payload == f.word))
    latch = c.probe("dut.ram.stage", WIDTH)
    c.lemma("latch", implies(f.waits & staged & (f.ahead == q.o.valid), latch == f.word))
    f.in_ram(
        c, "ram", places=depth, write=write, read=read, level=level, behind=staged + q.o.valid,
        cells="dut.ram.words",
    )  # fmt: skip


def _fifo(c: Check[Fifo]) -> None:
    q, places = c.dut, c.dut.depth - 1
    f = Follow(
        c, "items", q.i.valid & q.i.ready, q.i.payload, q.o.valid & q.o.ready, q.o.payload, q.depth
    )
    stable(c, "o", q.o.valid, q.o.ready, q.o.payload)
    age = prompt(c, "offer", f.inside != 0, q.o.valid, 2)
    room = implies(f.inside < places, q.i.ready)
    c.require(f"i is ready below {places} items", room)

    c.lemma("age", implies((f.inside != 0) & ~q.o.valid, age == 0))
    c.lemma("output", implies(f.is_next & q.o.valid, q.o.payload == f.word))
    some = c.probe("dut.level_some")
    if places == 1:
        c.lemma("count", (f.inside == some + q.o.valid) & (q.i.ready == ~some))
        stored = c.probe("dut.stored", WIDTH)
        c.lemma("stored", implies(f.waits & some & (f.ahead == q.o.valid), stored == f.word))
        return
    level = c.probe("dut.level", range(places + 1))
    c.lemma("answers", (some == (level != 0)) & (q.i.ready == (level != places)))
    f.in_ram(
        c, "ram", places=places, write=c.probe("dut.$signature__addr", range(places)),
        read=c.probe("dut.read__addr", range(places)), level=level, behind=q.o.valid,
        cells="dut.storage",
    )  # fmt: skip


class Levels(wiring.Component):
    """`Level` in all sizes, side by side."""

    up: Signal  #: in: one place more
    down: Signal  #: in: one place less
    some: Signal  #: out: it is not 0
    room: Signal  #: out: it is not the maximum

    def __init__(self) -> None:
        sizes = len(LEVELS)
        super().__init__(
            {"up": In(sizes), "down": In(sizes), "some": Out(sizes), "room": Out(sizes)}
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        for number, (maximum, init) in enumerate(LEVELS):
            level = Level(m, f"level_{number}", maximum, self.up[number], self.down[number], init)
            m.d.comb += [self.some[number].eq(level.some), self.room[number].eq(level.room)]
        return m


def _levels(c: Check[Levels]) -> None:
    for number, (maximum, init) in enumerate(LEVELS):
        up, down = c.dut.up[number], c.dut.down[number]
        count: Signal = Signal(range(maximum + 1), name=f"count_{number}", init=init)
        c.m.d.sync += count.eq(count + up - down)
        c.assume(~(up & ~down & (count == maximum)) & ~(down & ~up & (count == 0)))
        c.require(f"some of {maximum}", c.dut.some[number] == (count != 0))
        c.require(f"room of {maximum}", c.dut.room[number] == (count != maximum))
        c.lemma(f"count to {maximum}", count <= maximum)
        if maximum > 1:
            level = c.probe(f"dut.level_{number}", range(maximum + 1))
            c.lemma(f"value of {maximum}", count == level)


def _group_store(c: Check[GroupStore]) -> None:
    q, beats, depth = c.dut, c.dut.beats, c.dut.depth
    c.assume(~q.start | q.ready)
    put = q.i.valid & q.i.ready
    f = Follow(c, "beats", put, q.i.payload, q.valid, q.beat, depth + 1)
    # A burst: `beats` cycles from the one after `start`, numbered, without a gap.
    left = Signal(range(beats + 1))
    with c.m.If(q.start):
        c.m.d.sync += left.eq(beats)
    with c.m.Elif(left != 0):
        c.m.d.sync += left.eq(left - 1)
    c.require("valid in bursts alone", q.valid == (left != 0))
    c.require("index", implies(left != 0, q.index == beats - left))
    c.require("no start in a burst", implies(left > 1, ~q.ready))
    stored = c.wire("stored", f.inside - q.valid)
    c.require("i is ready with room", q.i.ready == (stored != depth))
    whole = Signal(range(depth + 1))  # beats of groups that are whole and not started
    part = Signal(range(beats))
    completes = put & (part == beats - 1)
    c.m.d.sync += [
        part.eq(part + put),
        whole.eq(whole + completes.replicate(1) * beats - q.start.replicate(1) * beats),
    ]
    c.require("ready with a whole group", q.ready == ((whole != 0) & (left <= 1)))
    level = c.probe("dut.level", range(depth + 1))
    busy, position = c.probe("dut.busy"), c.probe("dut.position", range(beats))
    groups = c.probe("dut.groups", range(depth // beats + 1))
    rest = c.wire("rest", (left - (left != 0))[: len(left)])  # of a burst, still in the RAM
    write, read = (
        c.probe("dut.$signature__addr", range(depth)),
        c.probe("dut.read__addr", range(depth)),
    )
    c.lemma("stored", level == stored)
    c.lemma("sum", level == whole + rest + part)
    c.lemma("groups", whole == groups * beats)
    c.lemma("burst", (busy == (left > 1)) & implies(busy, position == beats - rest))
    c.lemma("between bursts", implies(~busy, position == 0))
    bits = (beats - 1).bit_length()
    c.lemma("groups start at multiples", (write[:bits] == part) & (read[:bits] == position))
    c.lemma("output", implies(f.is_next & q.valid, q.beat == f.word))
    f.in_ram(
        c, "ram", places=depth, write=write, read=read, level=level, behind=q.valid,
        cells="dut.memory",
    )  # fmt: skip


def _output_queue(c: Check[OutputQueue]) -> None:
    q, beats, depth = c.dut, c.dut.beats, c.dut.depth
    promised = Signal(range(depth + 1))  # places set aside whose result is on its way
    c.assume(~q.reserve | q.room)
    c.assume(~q.push | (promised != 0))
    c.m.d.sync += promised.eq(promised + q.reserve.replicate(1) * beats - q.push)
    f = Follow(c, "results", q.push, q.data, q.o.valid & q.o.ready, q.o.payload, depth + 1)
    stable(c, "o", q.o.valid, q.o.ready, q.o.payload)
    age = prompt(c, "offer", f.inside != 0, q.o.valid, 2)
    stored = c.wire("stored", f.inside - q.o.valid)
    c.require("every result has a place", stored + promised <= depth)
    c.require("room is exact", q.room == (stored + promised + beats <= depth))
    level, free = (c.probe(f"dut.{n}", range(depth + 1)) for n in ("level", "free"))
    c.lemma("places", free + promised + level == depth)
    c.lemma("age", implies((f.inside != 0) & ~q.o.valid, age == 0))
    c.lemma("output", implies(f.is_next & q.o.valid, q.o.payload == f.word))
    f.in_ram(
        c, "ram", places=depth, write=c.probe("dut.$signature__addr", range(depth)),
        read=c.probe("dut.read__addr", range(depth)), level=level, behind=q.o.valid,
        cells="dut.memory",
    )  # fmt: skip


_WIDE_MUTANTS = (
    Mutant("room-shy", _QUEUE, "self.room.eq(level.room)",
           "self.room.eq(level.room & ~level.some)"),
    Mutant("read-again", _QUEUE, "read_addr.eq(read_addr + self.taken)",
           "read_addr.eq(read_addr + (self.taken & ~self.push))"),
    Mutant("latch-lost", _QUEUE, "staged.eq(level.some | (staged & ~out_en))",
           "staged.eq(level.some)"),
    Mutant("level-both", _COUNT, "with m.If(up ^ down):", "with m.If(up | down):"),
)  # fmt: skip
_FIFO_MUTANTS = (
    Mutant("no-wrap", _MEMORY, "Mux(port.addr == places - 1, 0, port.addr + 1)", "port.addr + 1"),
    Mutant("output-lost", _MEMORY, "level.some | (self.o.valid & ~self.o.ready)", "level.some"),
    Mutant("too-ready", _MEMORY, "push.eq(self.i.valid & level.room)", "push.eq(self.i.valid)"),
)
_STORE_MUTANTS = (
    Mutant("group-early", _ELASTIC, "self.beats - 1)),", "self.beats - 2)),"),
    Mutant("burst-short", _ELASTIC, "busy.eq(~final)", "busy.eq(~final & ~self.i.valid)"),
)
_OUTPUT_MUTANTS = (
    Mutant("reserves-one", _ELASTIC, "Mux(self.reserve, self.beats, 0)", "self.reserve"),
    Mutant("stalls-lose", _ELASTIC, "pop.eq((level != 0) & (~self.o.valid | self.o.ready))",
           "pop.eq(level != 0)"),
)  # fmt: skip


# A mutant replaces classes in this module, so they are looked up when the module is built.
def _wide(depth: int) -> Callable[[], WideQueue]:
    return lambda: WideQueue(WIDTH, depth)


def _small(depth: int) -> Callable[[], Fifo]:
    return lambda: Fifo(unsigned(WIDTH), depth)


def _store(beats: int) -> Callable[[], GroupStore]:
    return lambda: GroupStore(unsigned(WIDTH), beats)


def _output(beats: int, depth: int) -> Callable[[], OutputQueue]:
    return lambda: OutputQueue(unsigned(WIDTH), beats, depth)


def properties() -> Iterator[Property]:
    """All of this file."""
    for depth in WIDE_DEPTHS:
        yield Property(
            f"queue.wide-{depth}", f"WideQueue, depth {depth}",
            f"{_ORDER}; `room` is exact; a word is offered within 3 cycles and stays until taken",
            _wide(depth), _wide_queue,
            mutants=_WIDE_MUTANTS if depth == WIDE_DEPTHS[0] else (),
        )  # fmt: skip
    for depth in FIFO_DEPTHS:
        yield Property(
            f"queue.fifo-{depth}", f"Fifo, depth {depth}",
            f"{_ORDER}; ready below {depth - 1} items; an item is offered within 2 cycles and "
            "stays until taken",
            _small(depth), _fifo,
            mutants=_FIFO_MUTANTS if depth == 4 else (),
        )  # fmt: skip
    yield Property(
        "queue.levels", f"Level, {len(LEVELS)} sizes",
        "the count is right; `some` and `room` say exactly whether it is 0 or full",
        lambda: Levels(), _levels,
        mutants=(
            Mutant("borrow", _COUNT, "~value[:k].any() if k", "~value[:k].all() if k"),
            Mutant("room-stays", _COUNT, "value < maximum - 1", "value < maximum"),
        ),
    )  # fmt: skip
    for beats, depth in STORES:
        yield Property(
            f"queue.store-{beats}-{depth}", f"GroupStore, groups of {beats}, depth {depth}",
            f"{_ORDER}; bursts are whole groups without gaps, numbered; `ready` is exact",
            _store(beats), _group_store,
            mutants=_STORE_MUTANTS if beats == 2 else (),
        )  # fmt: skip
    for beats, depth in OUTPUT_QUEUES:
        yield Property(
            f"queue.output-{beats}-{depth}", f"OutputQueue, groups of {beats}, depth {depth}",
            f"{_ORDER}; every result finds its place; `room` is exact; a result is offered within "
            "2 cycles and stays until taken",
            _output(beats, depth), _output_queue,
            mutants=_OUTPUT_MUTANTS if (beats, depth) == (2, 16) else (),
        )  # fmt: skip
