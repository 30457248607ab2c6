# SPDX-License-Identifier: Apache-2.0
"""The quantizer's store, from which a group comes once or twice.

Beats that went in come out in first bursts; what of them comes back comes out in second bursts.
Both are queues in one RAM, the second in the places that the first keeps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from amaranth.hdl import Cat, Mux, Signal, Value
from amaranth.lib import data

from lutvar.hw.units.two_term_store import TwoTermStore
from lutvar.sim.formal.harness import Check, implies
from lutvar.sim.formal.property import Mutant, Property

from .order import Follow, prompt

#: Bits of a beat and of a group's constants in the proofs; the store looks at `terms` alone.
WIDTH = 1
#: Beats of a group: as in the shipped configurations (a test compares), and few, so that faults
#: show after few cycles.
BEATS = (8, 4)
_STORE = "lutvar.hw.units.two_term_store"


@dataclass
class _Way:
    """Groups of new beats, or of beats that came back, on their way to a burst.

    Attributes:
        part: beats here of a group that is not whole.
        unknown: whole groups whose maximum is not known.
        line: the constants of one come in this cycle.
        ready: groups whose constants are here.
    """

    part: Signal
    unknown: Signal
    line: Signal
    ready: Signal

    @property
    def groups(self) -> Value:
        """Whole groups that have not started."""
        return self.unknown + self.line + self.ready


def _way(
    c: Check[TwoTermStore], name: str, beat: Value, known: Value, params: Value, starts: Value
) -> _Way:
    """Counts groups and says when their maxima and constants may come: in order, constants in the
    cycle after the maximum."""
    beats, slots = c.dut.beats, c.dut.slots
    way = _Way(
        Signal(range(beats), name=f"{name}_part"),
        Signal(range(slots + 2), name=f"{name}_unknown"),
        c.previous(f"{name}_line", known),
        Signal(range(slots + 2), name=f"{name}_ready"),
    )
    whole = beat & (way.part == beats - 1)
    c.m.d.sync += [
        way.part.eq(way.part + beat),
        way.unknown.eq(way.unknown + whole - known),
        way.ready.eq(way.ready + way.line - starts),
    ]
    c.assume(implies(known, way.unknown != 0))
    c.assume(params == way.line)
    return way


def _two_term_store(c: Check[TwoTermStore]) -> None:
    q, m = c.dut, c.m
    beats, depth, slots = q.beats, q.depth, q.slots
    low = (beats - 1).bit_length()
    put = c.wire("put", q.i.valid & q.i.ready)
    first, second = c.wire("first", q.valid & ~q.second), c.wire("second", q.valid & q.second)
    kept = c.wire("kept", q.valid & q.keep)

    # A burst: `beats` cycles from the one after `start`, without a gap.
    left = Signal(range(beats + 1))
    with m.If(q.start):
        m.d.sync += left.eq(beats)
    with m.Elif(left != 0):
        m.d.sync += left.eq(left - 1)
    head = c.previous("head", q.start)  # the first beat of a burst is here
    c.require("valid in bursts alone", q.valid == (left != 0))
    c.require("no start in a burst", implies(q.start, left <= 1))
    c.require("starts with room", implies(q.start, q.room))
    c.require("keeps of first bursts", implies(q.keep & q.valid, first))
    kind, constants = Cat(q.second, q.keep), Value.cast(q.constants)
    before = c.previous("before", Cat(kind, constants))
    c.require("one kind, one set", implies(q.valid & ~head, Cat(kind, constants) == before))

    # The environment: one value of `terms` a group; a kept beat comes back after it left.
    some_second = c.probe("dut.some_second")
    start_second = c.wire("start_second", q.start & some_second)
    start_first = c.wire("start_first", q.start & ~some_second)
    new = _way(c, "new", put, q.known, q.params_new, start_first)
    back = _way(c, "back", q.back_valid, q.known_back, q.params_back, start_second)
    terms = Signal(name="terms_of_group")
    with m.If(put & (new.part == 0)):
        m.d.sync += terms.eq(q.i.payload.terms)
    c.assume(implies(put & (new.part != 0), q.i.payload.terms == terms))
    c.assume(~(q.known & q.known_back))
    slot_line = c.previous("slot_line", q.slot)
    c.assume(implies(q.params_new | q.params_back, q.params_slot == slot_line))
    away = Signal(range(depth + 2))  # kept beats that are neither here nor at the output
    m.d.sync += away.eq(away + kept - q.back_valid)
    c.assume(implies(q.back_valid, away != 0))

    # Beats and constants come out as they went in, each kind by itself.
    word = Cat(q.i.payload.data, q.i.payload.terms)
    ones = Follow(c, "first", put, word, first, Cat(q.beat.data, q.keep), depth + 1)
    twos = Follow(c, "second", q.back_valid, q.back.data, second, q.beat.data, depth + 1)
    sets = [
        Follow(c, f"constants_{name}", way.line, q.params, head & come, constants, slots + 1)
        for name, way, come in (("first", new, first), ("second", back, second))
    ]
    held = c.wire("held", ones.inside + away + kept * 1 + twos.inside - first)
    c.require("ready with a place", implies((held < depth) & ~q.back_valid, q.i.ready))
    ages = [prompt(c, "second burst", q.room & (back.ready != 0), q.start, beats)]
    only_new = q.room & (back.ready == 0) & (new.ready != 0)
    none_out = (away + kept == 0) & (twos.inside == 0)
    ages.append(prompt(c, "first burst", only_new & none_out, q.start, beats))

    # What induction needs to know of the registers.
    bits = (slots - 1).bit_length()
    at = {n: c.probe(f"dut.{n}_at", range(depth)) for n in ("new", "first", "second", "back")}
    busy, is_second, is_keep = (c.probe(f"dut.{n}") for n in ("busy", "is_second", "is_keep"))
    position = c.probe("dut.position", low)
    rest = c.wire("rest", Mux(busy, beats - position, 0))  # of a burst, still in the RAM
    rest_first = c.wire("rest_first", Mux(is_second, 0, rest))
    rest_kept = c.wire("rest_kept", Mux(is_keep, rest_first, 0))
    rest_second = c.wire("rest_second", Mux(is_second, rest, 0))
    alone = c.wire("alone", busy & ~is_second & ~is_keep)
    c.lemma("burst", (busy == (left > 1)) & implies(busy, rest == left - 1))
    c.lemma("between bursts", implies(~busy, position == 0))
    c.lemma("kinds of bursts", implies(busy, (q.second == is_second) & (q.keep == is_keep)))
    c.lemma("seconds are not kept", ~(is_second & is_keep))

    for age in ages:
        c.lemma(f"{age.name}", age + left <= beats)

    # Places: new beats, kept beats that are away, beats that came back, one after the other.
    waits_new = c.wire("waits_new", ones.inside - first)
    waits_back = c.wire("waits_back", twos.inside - second)
    out = c.wire("out", away + kept)
    level = c.probe("dut.level", range(depth + 1))
    c.lemma("places", (level == waits_new + out + waits_back) & (level <= depth))
    c.lemma("counts", (waits_new <= depth) & (waits_back <= depth) & (out <= depth))
    c.lemma("alone", implies(alone, (out == 0) & (waits_back == 0)))
    ends = [at["second"] + waits_back, at["back"] + out, at["first"] + waits_new]
    for name, end in zip(("back", "first", "new"), ends, strict=True):
        c.lemma(f"{name} address", at[name] == end[: low + bits])
    c.lemma("new group", at["new"][:low] == new.part)
    c.lemma("first burst", at["first"][:low] == Mux(is_second, 0, position))
    c.lemma("second burst", at["second"][:low] == Mux(is_keep, 0, position))
    c.lemma("group back", at["back"][:low] == Mux(alone, position, back.part))
    c.lemma("no part of a group", implies(alone, back.part == 0))

    # Groups.
    c.lemma("new groups", waits_new == new.part + rest_first + (new.groups << low))
    c.lemma("groups back", waits_back == back.part + rest_second + (back.groups << low))
    outstanding = c.probe("dut.outstanding", range(slots + 1))
    total = out + waits_back + rest_kept
    c.lemma("outstanding", total == (outstanding << low) + rest_second)
    ready = [c.probe(f"dut.ready_{n}", range(slots + 1)) for n in ("first", "second")]
    c.lemma("ready", (ready[0] == new.ready) & (ready[1] == back.ready))
    some = c.probe("dut.some_first"), c.probe("dut.clear")
    c.lemma("answers", (some[0] == (ready[0] != 0)) & (some_second == (ready[1] != 0)))
    c.lemma("clear", some[1] == (outstanding == 0))
    next_first = c.wire("next_first", (at["first"][low:] + (busy & ~is_second))[:bits])
    next_second = c.wire("next_second", (at["second"][low:] + (busy & ~is_keep))[:bits])
    slots_known = [c.probe(f"dut.{n}", range(slots)) for n in ("known_at", "known_back_at")]
    for way, start, known_at, name in zip(
        (new, back), (next_first, next_second), slots_known, ("new", "back"), strict=True
    ):
        c.lemma(f"{name} known", known_at == (start + way.line + way.ready)[:bits])
        c.lemma(f"{name} slot", implies(way.line, slot_line == (start + way.ready)[:bits]))
    c.lemma("one line", ~(new.line & back.line))
    for follow, way, start, come in zip(
        sets, (new, back), (next_first, next_second), (first, second), strict=True
    ):
        follow.in_ram(
            c, f"{way.line.name}_ram", places=slots, write=(start + way.ready)[:bits], read=start,
            level=way.ready, behind=head & come, cells="dut.waiting",
        )  # fmt: skip
        c.lemma(
            f"{way.line.name} set", implies(follow.is_next & head & come, constants == follow.word)
        )

    # What lies where.
    twos.in_ram(
        c, "back_ram", places=depth, write=at["back"], read=at["second"], level=waits_back,
        behind=second, cells="dut.memory", width=2, part=lambda cell: cell[0],
    )  # fmt: skip
    ones.in_ram(
        c, "new_ram", places=depth, write=at["new"], read=at["first"], level=waits_new,
        behind=first, cells="dut.memory", width=2,
    )  # fmt: skip
    c.lemma("output", implies(ones.is_next & first, Cat(q.beat.data, q.keep) == ones.word))
    c.lemma("second output", implies(twos.is_next & second, q.beat.data == twos.word))
    known_terms = c.probe("dut.terms", slots)
    marked = c.wire("marked", ones.waits & (ones.ahead >= first))
    number = c.wire("marked_number", (ones.ahead - first)[: len(ones.ahead)])
    place = c.wire("marked_place", (at["first"] + number)[: low + bits])
    # A new group may have taken the first places of one in its only burst.
    in_burst = number < rest_first
    of_marked = Mux(in_burst, is_keep, known_terms.bit_select(place[low:], 1))
    c.lemma("terms of the marked beat", implies(marked, of_marked == ones.word[1]))
    for slot in range(slots):
        here = (at["new"][low:] == slot) & (new.part != 0)
        c.lemma(f"terms of group {slot}", implies(here, known_terms[slot] == terms))


_MUTANTS = (
    Mutant("back-waits", _STORE, "(level != self.depth) & ~self.back_valid", "level != self.depth"),
    Mutant("keeps-seconds", _STORE, "keeps & ~some_second)", "keeps)"),
    Mutant("alone-overtakes", _STORE, "(keeps | clear)", "(keeps | clear | self.back_valid)"),
    Mutant("skips-no-place", _STORE, "(self.back_valid | alone)", "self.back_valid"),
    Mutant("constants-of-first", _STORE, "get_params.addr.eq(read.addr[low:])",
           "get_params.addr.eq(first_at[low:])"),
)  # fmt: skip


def _make(beats: int) -> Callable[[], TwoTermStore]:
    beat = data.StructLayout({"data": WIDTH, "terms": 1})
    return lambda: TwoTermStore(beat, data.StructLayout({"value": WIDTH}), beats)


def properties() -> Iterator[Property]:
    """All of this file."""
    for beats in BEATS:
        yield Property(
            f"terms.store-{beats}", f"TwoTermStore, groups of {beats}",
            "first bursts and second bursts give the beats, and the constants, in the order in "
            "which they came: none lost, doubled or overwritten; a group whose constants are here "
            "starts when there is room",
            _make(beats), _two_term_store,
            mutants=_MUTANTS if beats == min(BEATS) else (), seconds=600,
        )  # fmt: skip
