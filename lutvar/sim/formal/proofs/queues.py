# SPDX-License-Identifier: Apache-2.0
"""Queues and elastic stages, at all depths in use."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from amaranth.hdl import Signal

from lutvar.hw.axi.queue import WideQueue
from lutvar.sim.formal.harness import Check, implies
from lutvar.sim.formal.property import Mutant, Property

from .order import Follow, prompt

#: Words in the proofs; queues do not look at what they carry.
WIDTH = 2
#: Depths of `WideQueue` in the shipped configurations.
WIDE_DEPTHS = (16, 32, 64, 128, 256, 512)
_QUEUE = "lutvar.hw.axi.queue"


def wide_queue(c: Check[WideQueue]) -> None:
    """The n-th word out is the n-th in; `room` is exact; a word is offered within 3 cycles."""
    q, depth = c.dut, c.dut.depth
    c.assume(~q.push | q.room)
    f = Follow(c, "words", q.push, q.data, q.o.valid & q.o.ready, q.o.payload, depth + 2)
    level, staged = c.probe("dut.level", range(depth + 1)), c.probe("dut.staged")
    # What the outside sees: in the RAM are all words but those that were taken from it.
    in_ram = Signal(range(depth + 1))
    c.m.d.sync += in_ram.eq(in_ram + q.push - q.taken)
    c.require("room is exact", q.room == (in_ram != depth))
    c.require("nothing is taken from an empty RAM", implies(q.taken, in_ram != 0))
    held = Signal(), Signal(WIDTH)
    c.m.d.sync += [held[0].eq(q.o.valid & ~q.o.ready), held[1].eq(q.o.payload)]
    c.require("o is stable", implies(held[0], q.o.valid & (q.o.payload == held[1])))
    age = prompt(c, "offer", f.inside != 0, q.o.valid, 3)

    write, read = (c.probe(f"dut.{n}_addr", range(depth)) for n in ("write", "read"))
    bits = len(write)
    place = Signal(range(depth))
    with c.m.If(f.enters):
        c.m.d.sync += place.eq(write)
    c.lemma("level counts the RAM", level == in_ram)
    c.lemma("level within depth", level <= depth)
    c.lemma("all are counted", f.inside == level + staged + q.o.valid)
    c.lemma("addresses", (write - read)[:bits] == level[:bits])
    c.lemma("level's answers", (c.probe("dut.level_some") == (level != 0)))
    waits_in_ram = c.wire("waits_in_ram", f.waits & (f.ahead >= staged + q.o.valid))
    c.lemma("age", implies((f.inside != 0) & ~q.o.valid, age <= staged))
    c.lemma("output", implies(f.is_next & q.o.valid, q.o.payload == f.word))
    c.lemma(
        "latch",
        implies(
            f.waits & staged & (f.ahead == q.o.valid), c.probe("dut.ram.stage", WIDTH) == f.word
        ),
    )
    c.lemma(
        "place",
        implies(waits_in_ram, (place - read)[:bits] == (f.ahead - staged - q.o.valid)[:bits]),
    )
    for number in range(depth):
        cell = c.probe(f"dut.ram.words[{number}]", WIDTH)
        c.lemma(f"cell {number}", implies(waits_in_ram & (place == number), cell == f.word))


def _wide_queues() -> Iterator[Property]:
    for depth in WIDE_DEPTHS:
        yield Property(
            f"queue.wide-{depth}", f"axi.queue.WideQueue, depth {depth}",
            "words come out as they went in, none lost, doubled or reordered; `room` is exact; "
            "a word is offered within 3 cycles and stays until taken",
            partial(WideQueue, WIDTH, depth), wide_queue,
            mutants=(
                Mutant("room-late", _QUEUE, "self.room.eq(level.room)",
                       "self.room.eq(level.room | level.some)"),
                Mutant("read-again", _QUEUE, "read_addr.eq(read_addr + self.taken)",
                       "read_addr.eq(read_addr + (self.taken & ~self.push))"),
                Mutant("latch-lost", _QUEUE, "staged.eq(level.some | (staged & ~out_en))",
                       "staged.eq(level.some)"),
                Mutant("level-both", "lutvar.hw.units.count", "with m.If(up ^ down):",
                       "with m.If(up | down):"),
            ) if depth == 16 else (),
        )  # fmt: skip


def properties() -> Iterator[Property]:
    """All of this file."""
    yield from _wide_queues()
