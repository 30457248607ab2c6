# SPDX-License-Identifier: Apache-2.0
"""Places of the AXI4 masters' queues at full size: 64 bursts under way.

`credit` follows each of a few bursts, and wrong memories too. Here beats are only counted, so the
number of bursts costs nothing: the memory is one that sends no more than was asked for.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from amaranth.hdl import Mux, Signal

from lutvar.hw.axi.reader import OUTSTANDING, BurstReader
from lutvar.hw.axi.writer import BurstWriter
from lutvar.sim.formal.harness import Check, implies
from lutvar.sim.formal.property import Mutant, Property

from .ports import DEPTH, splitter_lemmas

_READER = "lutvar.hw.axi.reader"
_WRITER = "lutvar.hw.axi.writer"
_SPLIT = "lutvar.hw.axi.split"
_FITS = "fits.eq(source.valid & (amount >= source.payload.beats) & ~issue)"
_COUNT = range(4 * DEPTH)  #: of the checkers' own counters


def _in_ram(c: Check[Any]) -> tuple[Signal, Signal, Signal]:
    """Words in the queue's RAM, one that comes, and one that has left it a cycle ago."""
    push, taken = c.probe("dut.push"), c.probe("dut.taken")
    in_ram = Signal(_COUNT)
    c.m.d.sync += in_ram.eq(in_ram + push - taken)
    c.lemma("level counts the RAM", c.probe("dut.queue.level", range(DEPTH + 1)) == in_ram)
    c.lemma("level's answer", c.probe("dut.queue.level_some") == (in_ram != 0))
    back = c.probe("dut.freed")
    c.lemma("freed", back == c.previous("taken_before", taken))
    c.require("a word finds a place", implies(push, in_ram < DEPTH))
    return in_ram, push, back


def _offered(c: Check[Any], valid: Any, ready: Any, length: Any) -> tuple[Signal, Signal]:
    """Beats of a burst that is offered now, and of one that is offered for the first time."""
    waited = c.previous("burst_waited", valid & ~ready)
    beats = c.wire("burst_beats", Mux(valid, length[:4] + 1, 0))
    return beats, c.wire("fresh_beats", Mux(waited, 0, beats))


def _enough(c: Check[Any], amount: Signal) -> None:
    """What the comparison of a cycle ago still says."""
    burst = c.probe("dut.split.o__payload", 65)
    offered = c.probe("dut.split.o__valid")
    fits = implies(offered & c.probe("dut.result"), amount >= burst[58:63])
    c.lemma("enough", fits)
    splitter_lemmas(c)


def _reader(c: Check[BurstReader]) -> None:
    dut: Any = c.dut
    axi, m = dut.memory, c.m
    c.assume(~dut.request.valid | (dut.request.payload.beats != 0))
    beats, fresh = _offered(c, axi.arvalid, axi.arready, axi.arlen)
    # The memory sends no more beats than were asked for; RLAST may be anywhere.
    asked = Signal(_COUNT)
    taken = c.wire("taken_beats", Mux(axi.arready, beats, 0))
    c.assume(~axi.rvalid | (asked + taken != 0))
    m.d.sync += asked.eq(asked + taken - axi.rvalid)
    in_ram, push, back = _in_ram(c)
    # Promised to a burst, and not in the queue yet.
    promised, now = Signal(_COUNT), Signal(_COUNT)
    m.d.comb += now.eq(promised + fresh)
    m.d.sync += promised.eq(now - push)
    free = c.probe("dut.free", range(DEPTH + 1))
    c.require("every place has one use", free + now + in_ram + back == DEPTH)
    c.require("there is a place for what was asked for",
              asked + beats + push + in_ram <= DEPTH)  # fmt: skip

    c.lemma("what comes is promised", now >= asked + beats + push)
    _enough(c, free)


def _writer(c: Check[BurstWriter]) -> None:
    dut: Any = c.dut
    axi, m = dut.memory, c.m
    c.assume(~dut.request.valid | (dut.request.payload.beats != 0))
    _, fresh = _offered(c, axi.awvalid, axi.awready, axi.awlen)
    in_ram, push, back = _in_ram(c)
    free = c.probe("dut.free", range(DEPTH + 1))
    c.require("every place has one use", free + push + in_ram + back == DEPTH)
    # Beats that came and were not sent, those of them that a burst owns, and the others.
    arrives = c.wire("arrives", dut.data.valid & dut.data.ready)
    sends = c.wire("sends", axi.wvalid & axi.wready)
    inside, owned, owned_now = Signal(_COUNT), Signal(_COUNT), Signal(_COUNT)
    m.d.comb += owned_now.eq(owned + fresh)
    m.d.sync += [inside.eq(inside + arrives - sends), owned.eq(owned_now - sends)]
    c.assume(~axi.wvalid | (owned_now != 0))  # of a burst that was offered: `ports.writer`
    c.require("a burst begins with all its beats", owned_now <= inside)

    staged, out = c.probe("dut.queue.staged"), c.probe("dut.queue.o__valid")
    c.lemma("what is inside", inside == push + in_ram + staged + out)
    here = c.probe("dut.here", range(DEPTH + 3))
    c.lemma("here is nobody's", here + owned_now == inside)
    _enough(c, here)


def properties() -> Iterator[Property]:
    """All of this file."""
    yield Property(
        "places.reader", f"BurstReader, depth {DEPTH}, {OUTSTANDING} bursts",
        "each place of the queue is free, promised to a beat of one burst, or holds a word; no "
        "beat comes without a place, for any memory that sends no more than was asked for, "
        "wherever it puts RLAST",
        lambda: BurstReader(DEPTH), _reader,
        mutants=(
            Mutant("freed-twice", _READER, "free.eq(free + freed -",
                   "free.eq(free + freed + freed -"),
            Mutant("refused-paid", _READER, "Mux(granted, burst.beats, 0)",
                   "Mux(issue, burst.beats, 0)"),
            Mutant("looked-before", _SPLIT, _FITS, _FITS.replace(" & ~issue", "")),
        ),
    )  # fmt: skip
    yield Property(
        "places.writer", f"BurstWriter, depth {DEPTH}, {OUTSTANDING} bursts",
        "each place of the queue is free or holds a word; none is taken without a place; a burst "
        "begins when all its beats are here and no other owns them",
        lambda: BurstWriter(DEPTH), _writer,
        mutants=(
            Mutant("freed-twice", _WRITER, "free.eq(free + freed - take)",
                   "free.eq(free + freed + freed - take)"),
            Mutant("here-twice", _WRITER, "here.eq(here + take -", "here.eq(here + take + take -"),
            Mutant("begins-early", _SPLIT, _FITS, _FITS.replace("amount", "amount + 1")),
        ),
    )  # fmt: skip
