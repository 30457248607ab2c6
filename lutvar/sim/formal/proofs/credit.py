# SPDX-License-Identifier: Apache-2.0
"""Credit of the AXI4 masters: a beat that was asked for has its place, one that is owed is there.

Beats are counted from the reset. Each burst under way begins at some count; a copy of these counts
stands beside the module's own ring of bursts, and lemmas tie each to the next. Counts have 12 bits,
more than all bursts need, so that their differences are exact. The ring has fewer places than the
accelerators' 64: its size enters as a number only, and the solver's work grows fast with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from amaranth.hdl import Mux, Signal, Value

from lutvar.hw.axi.reader import BurstReader
from lutvar.hw.axi.writer import BurstWriter
from lutvar.sim.formal.harness import Check, implies
from lutvar.sim.formal.property import Mutant, Property

from .ports import splitter_lemmas

_READER = "lutvar.hw.axi.reader"
_WRITER = "lutvar.hw.axi.writer"
_SPLIT = "lutvar.hw.axi.split"
_COUNT = 12
_BURSTS = 4  #: under way at most
_BITS = (_BURSTS - 1).bit_length()  #: of an address in the ring
DEPTHS = (32, 512)  #: the smallest, and the largest of the shipped accelerators


class _Ring:
    """Bursts that wait in a ring, and the count of beats at which each of them begins.

    Attributes:
        promised: beats of all bursts so far.
    """

    def __init__(self, c: Check[Any], grant: Value, beats: Value, write: Value) -> None:
        self.c, self.write = c, write
        self.promised = Signal(_COUNT, name="promised")
        self.starts = [Signal(_COUNT, name=f"start_{n}") for n in range(_BURSTS)]
        with c.m.If(grant):
            c.m.d.sync += self.promised.eq(self.promised + beats)
        for n, start in enumerate(self.starts):
            with c.m.If(grant & (write == n)):
                c.m.d.sync += start.eq(self.promised)

    def lemmas(self, inside: Value, beats_of: Any) -> None:
        """Each burst in the ring begins where the one before it ends, the newest ends last.

        Args:
            inside: bursts in the ring.
            beats_of: from an address of the ring to the beats of the burst there.
        """
        c = self.c
        for n, start in enumerate(self.starts):
            # How many bursts have entered since, this one included: 1 to `_BURSTS`.
            back = Signal(_BITS + 1, name=f"back_{n}")
            c.m.d.comb += back.eq(((self.write - 1 - n)[:_BITS]) + 1)
            valid = c.wire(f"valid_{n}", back <= inside)
            behind = Signal(_COUNT, name=f"behind_{n}")
            c.m.d.comb += behind.eq(self.promised - start)
            beats = Signal(5, name=f"beats_{n}")
            c.m.d.comb += beats.eq(beats_of(n))
            end = (start + beats)[:_COUNT]
            following = Mux(back == 1, self.promised, self.starts[(n + 1) % _BURSTS])
            c.lemma(f"beats {n}", implies(valid, (beats != 0) & (beats <= 16)))
            c.lemma(f"next {n}", implies(valid, following == end))
            c.lemma(f"order {n}", implies(valid, (behind >= beats) & (behind <= (back << 4))))


def _enough(c: Check[Any], amount: Value) -> None:
    """What `split.enough` has in its registers; there is one in each master."""
    offered = c.probe("dut.split.o__valid")
    beats = c.probe("dut.split.o__payload", 65)[58:63]
    c.lemma("enough", implies(offered & c.probe("dut.result"), amount >= beats))


def _queue(c: Check[Any], depth: int) -> Signal:
    """Words in the RAM of the master's queue."""
    level = c.probe("dut.queue.level", range(depth + 1))
    c.lemma("level", (c.probe("dut.queue.level_some") == (level != 0)) & (level <= depth))
    return level


def _reader(c: Check[BurstReader]) -> None:
    dut, m, depth = c.dut, c.m, c.dut.depth
    c.assume(~dut.request.valid | (dut.request.payload.beats != 0))
    axi, granted, lost = dut.memory, c.probe("dut.$signature__en"), c.probe("dut.lost")
    write, read = c.probe("dut.$signature__addr", _BITS), c.probe("dut.read__addr", _BITS)
    bursts, position = c.probe("dut.bursts", _BITS + 1), c.probe("dut.position", 4)
    free, freed = c.probe("dut.free", range(depth + 1)), c.probe("dut.freed")
    push, level = c.probe("dut.push"), _queue(c, depth)
    # A burst has beats from the cycle on in which its address is taken.
    begun = (bursts != axi.arvalid) | (axi.arvalid & axi.arready)
    owned = c.wire("owned_beat", axi.rvalid & begun)
    ring = _Ring(c, granted, c.probe("dut.split.o__payload", 65)[58:63], write)
    received, owed = Signal(_COUNT), Signal(_COUNT)
    m.d.comb += owed.eq(ring.promised - received)
    m.d.sync += received.eq(received + (owned & ~lost))

    c.require("a beat has its place", implies(push, level != depth))
    c.require("a beat is owed before it comes", implies(owned & ~lost, owed != 0))
    c.require("places: free, promised, taken", free + freed + owed + push + level == depth)
    over = (bursts == 0) & ~lost
    c.require("nothing is owed when no burst is under way", implies(over, owed == 0))

    c.lemma("several", c.probe("dut.several") == (bursts > 1))
    c.lemma(
        "bursts", (bursts <= _BURSTS) & (bursts >= axi.arvalid) & (read == (write - bursts)[:_BITS])
    )
    cells = [c.probe(f"dut.started[{n}]", 62)[58:] for n in range(_BURSTS)]
    ring.lemmas(bursts, lambda n: cells[n] + 1)
    length = c.probe("dut.read__data", 62)[58:]
    c.lemma("within the burst", implies(~lost & (bursts != 0), position <= length))
    c.lemma("between bursts", implies(~lost & (bursts == 0), position == 0))
    begin = Signal(_COUNT)
    m.d.comb += begin.eq(received - position)
    for n, start in enumerate(ring.starts):
        c.lemma(f"so far {n}", implies(~lost & (bursts != 0) & (read == n), start == begin))
    _enough(c, free)
    splitter_lemmas(c)


def _writer(c: Check[BurstWriter]) -> None:
    dut, m, depth = c.dut, c.m, c.dut.depth
    axi = dut.memory
    c.assume(~dut.request.valid | (dut.request.payload.beats != 0))
    granted, beats = c.probe("dut.$signature__en"), c.probe("dut.split.o__payload", 65)[58:63]
    write, read = c.probe("dut.$signature__addr", _BITS), c.probe("dut.read__addr", _BITS)
    waiting, left = c.probe("dut.waiting", _BITS + 1), c.probe("dut.left", 5)
    active, load = c.probe("dut.active"), c.probe("dut.load")
    free, freed = c.probe("dut.free", range(depth + 1)), c.probe("dut.freed")
    here, push = c.probe("dut.here", range(depth + 3)), c.probe("dut.push")
    level = _queue(c, depth)
    ring = _Ring(c, granted, beats, write)
    sent, owed, end = Signal(_COUNT), Signal(_COUNT), Signal(_COUNT)
    m.d.comb += owed.eq(ring.promised - sent)
    m.d.sync += sent.eq(sent + (axi.wvalid & axi.wready))
    cells = [c.probe(f"dut.lengths[{n}]", 5) for n in range(_BURSTS)]
    now = Mux(active, end, sent)  # where the next burst begins
    with m.If(load):
        m.d.sync += end.eq(now + c.probe("dut.read__data", 5))
    shown = c.probe("dut.queue.o__valid")
    inside = c.wire("inside", push + level + c.probe("dut.queue.staged") + shown)

    c.require("a beat has its place", implies(push, level != depth))
    c.require("places: free and taken", free + freed + push + level == depth)
    c.require("beats: promised and not", here + owed == inside)
    c.require("a burst that began can end", implies(active, inside >= left))
    c.require("a burst that was offered can end", implies(granted, here >= beats))

    bursts = c.probe("dut.bursts", _BITS + 1)
    c.lemma("waiting", (waiting <= bursts) & (bursts <= _BURSTS))
    c.lemma("every burst is somewhere", bursts == waiting + active + c.probe("dut.sent", _BITS + 1))
    c.lemma("addresses", read == (write - waiting)[:_BITS])
    ring.lemmas(waiting, lambda n: cells[n])
    c.lemma("last of the burst", implies(active, (axi.wlast == (left == 1)) & (left != 0)))
    c.lemma("so far", implies(active, end == (sent + left)[:_COUNT]))
    c.lemma("the newest one", implies(waiting == 0, now == ring.promised))
    for n, start in enumerate(ring.starts):
        c.lemma(f"the next one {n}", implies((waiting != 0) & (read == n), now == start))
    c.lemma("in the burst", implies(active, left <= 16))
    _enough(c, here)
    splitter_lemmas(c)


def _reader_of(depth: int) -> Callable[[], BurstReader]:
    return lambda: BurstReader(depth, outstanding=_BURSTS)  # looked up late: mutants replace it


def _writer_of(depth: int) -> Callable[[], BurstWriter]:
    return lambda: BurstWriter(depth, outstanding=_BURSTS)


def properties() -> Iterator[Property]:
    """All of this file."""
    for depth in DEPTHS:
        first = depth == DEPTHS[0]
        yield Property(
            f"credit.reader-{depth}", f"BurstReader, depth {depth}, {_BURSTS} bursts",
            "a beat that was requested has a place in the queue when it comes; free places, beats "
            "under way and words in the queue make the depth; after a wrong RLAST too",
            _reader_of(depth), _reader,
            mutants=(
                Mutant("one-short", _READER, "free + freed - Mux(granted, burst.beats, 0)",
                       "free + freed - Mux(granted, burst.beats - 1, 0)"),
                Mutant("freed-twice", _READER, "freed.eq(queue.taken)",
                       "freed.eq(queue.taken | freed)"),
                Mutant("late-last", _READER, "(axi.rlast != (position == read.data.length))",
                       "(axi.rlast & (position != read.data.length))"),
                Mutant("stale", _SPLIT, "(amount >= source.payload.beats) & ~issue",
                       "(amount >= source.payload.beats)"),
                Mutant("plenty-16", _SPLIT, "amount[_ALIGNED + 1 :].any()",
                       "amount[_ALIGNED:].any()"),
            ) if first else (),
        )  # fmt: skip
    for depth in DEPTHS:
        first = depth == DEPTHS[0]
        yield Property(
            f"credit.writer-{depth}", f"BurstWriter, depth {depth}, {_BURSTS} bursts",
            "data are taken only into free places; a burst is offered only when all its beats are "
            "in the queue and no other burst's, so that it can end whatever the unit does",
            _writer_of(depth), _writer,
            mutants=(
                Mutant("one-short", _WRITER, "here + take - Mux(granted, burst.beats, 0)",
                       "here + take - Mux(granted, burst.beats - 1, 0)"),
                Mutant("counted-twice", _WRITER, "here.eq(here + take - ",
                       "here.eq(here + take + take - "),
                Mutant("freed-twice", _WRITER, "freed.eq(queue.taken)",
                       "freed.eq(queue.taken | freed)"),
            ) if first else (),
        )  # fmt: skip
