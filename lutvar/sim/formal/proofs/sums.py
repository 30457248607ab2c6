# SPDX-License-Identifier: Apache-2.0
"""The memory of POST's sums: what is handed out is the sum of all that was added before."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal, Value, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from lutvar.contract.accelerator import LANES
from lutvar.contract.column_sums import BITS, SQUARE_BITS, VALUE_BITS, SumMode
from lutvar.hw.links import BEAT
from lutvar.hw.post.column_sums import (
    AGAIN,
    COLUMNS,
    HALF,
    MODIFY,
    ColumnSums,
    SumLane,
    word_layout,
)
from lutvar.hw.post.orders import PARTS, Path
from lutvar.hw.units.fp32_to_fixed import MAGNITUDE
from lutvar.hw.units.memory import READ_LATENCY
from lutvar.hw.units.pipeline import delay
from lutvar.sim.formal.harness import Check, implies
from lutvar.sim.formal.property import Mutant, Property

_SUMS = "lutvar.hw.post.column_sums"
#: Results come so early and there are so few blocks: lines and memory are the same, but short.
_RESULTS, _BLOCKS = 1, 1
#: The column of each word that is followed; the others are the same lines of Python.
_LANE = 6


class _AnyLane(wiring.Component):
    """In place of `SumLane`: any integer and any square, as late. Arithmetic is not proved."""

    x: In(32)
    value: Out(signed(BITS))
    square: Out(2 * MAGNITUDE)

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        x = delay(m, self.x, SumLane.LATENCY, "line")
        m.d.comb += [self.value.eq(x[:BITS]), self.square.eq(Cat(x, x))]
        return m


def _column_sums() -> ColumnSums:
    return ColumnSums(_RESULTS, _BLOCKS, _AnyLane)


def _word(job: Any, block: Value, quarter: Value, part: Value) -> Value:
    """The word of a part that enters: 16 columns of a row, or those of a beat of COLUMNS."""
    return Cat(Mux(job.path == Path.SUM, part, Cat(part[2], quarter)), block)


def _line(c: Check[ColumnSums], name: str, value: Value, cycles: int) -> list[Value]:
    """`value` now, one cycle ago and so on, 0 before reset."""
    line = Signal(len(value) * cycles, name=name)
    c.m.d.sync += line.eq(Cat(value, line))
    return [value, *(line.word_select(k, len(value)) for k in range(cycles))]


@dataclass
class _Column:
    """What the checker knows of some column, for its requirements and for lemmas.

    Lists are by cycles since a part entered.

    Attributes:
        number: its word.
        words, beats: words of all parts; beats of their quarter.
        adds, leaves: parts of additions, of COLUMNS. hits, looks: those of the column's word.
        begins: additions that begin.
        age: cycles since the latest hit, 8 or more counted as 8.
        sums: S1 as 64 bits and S2 of all whose results have arrived, and whether one began;
            now, a cycle ago and so on.
    """

    number: Signal
    words: list[Value]
    beats: list[Value]
    adds: list[Value]
    leaves: list[Value]
    hits: list[Value]
    looks: list[Value]
    begins: list[Value]
    age: Signal
    sums: list[Value]


#: Cycles from entering to the adders, with what was read.
_ARRIVES = _RESULTS + SumLane.LATENCY
#: Bits of a beat in which the column is.
_SHARE = slice(_LANE % COLUMNS * (BEAT // COLUMNS), (_LANE % COLUMNS + 1) * (BEAT // COLUMNS))
_MINE = _LANE // COLUMNS  #: beat of half a quarter that it is in


def _memory(c: Check[ColumnSums]) -> None:
    of = _requirements(c)
    _lines(c, of)
    _places(c, of)


def _requirements(c: Check[ColumnSums]) -> _Column:
    """The environment, the sums of a column, and what the module owes."""
    dut, m = c.dut, c.m
    job: Any = dut.job
    written = dut.at_read + MODIFY
    c.assume((job.path <= Path.COLUMNS) & (job.sums <= max(SumMode)))
    adds = c.wire("adds", dut.fire & (job.path == Path.SUM) & (job.sums != SumMode.NONE))
    leaves = c.wire("leaves", dut.fire & (job.path == Path.COLUMNS))
    word = c.wire("word", _word(job, dut.block, dut.quarter, dut.part))
    begin = c.wire("begin", job.sums == SumMode.BEGIN)

    # Some column. `Issue` lets its word come 8 cycles after an addition to it or later.
    column = c.rigid("column", range(_BLOCKS * PARTS))
    hit = c.wire("hit", adds & (word == column))
    look = c.wire("look", leaves & (word == column))
    age = Signal(range(AGAIN + 1), init=AGAIN)
    m.d.sync += age.eq(Mux(hit, 1, Mux(age < AGAIN, age + 1, age)))
    c.assume(implies(hit | look, age >= AGAIN))

    # What the sums of the column are, after all whose results have arrived.
    hits = _line(c, "hits", hit, written)
    begins = _line(c, "begins", begin, _ARRIVES)
    value = c.probe(f"dut.sum_lane_{_LANE}.value", BITS)
    square = c.probe(f"dut.sum_lane_{_LANE}.square", 2 * MAGNITUDE)
    total = Signal(VALUE_BITS)
    squares = Signal(SQUARE_BITS)
    known = Signal()  # since a BEGIN
    with m.If(hits[_ARRIVES]):
        m.d.sync += [
            total.eq(Mux(begins[_ARRIVES], 0, total) + value.as_signed()),
            squares.eq(Mux(begins[_ARRIVES], 0, squares) + square),
            known.eq(known | begins[_ARRIVES]),
        ]
    sums = Cat(_extended(total), squares, known)
    of = _Column(
        column, _line(c, "words", word, written), _line(c, "beats", dut.part[:2], dut.latency),
        _line(c, "additions", adds, written), _line(c, "left", leaves, dut.latency), hits,
        _line(c, "looks", look, dut.latency), begins, age,
        _line(c, "sums", sums, dut.latency - _ARRIVES),
    )  # fmt: skip

    out, then = dut.latency, of.sums[-1]  # as they were when the beat that leaves was read
    c.require("one beat for each part", dut.push == of.leaves[out])
    c.require(
        "the sums of all before",
        implies(of.looks[out] & (of.beats[out] == _MINE) & then[-1], dut.beat[_SHARE] == then[:-1]),
    )
    return of


def _lines(c: Check[ColumnSums], of: _Column) -> None:
    """The module's lines hold what the checker's do; the parts of a column keep their distance."""
    dut = c.dut
    read, written = dut.at_read, dut.at_read + MODIFY
    hits, looks, adds, leaves, words = of.hits, of.looks, of.adds, of.leaves, of.words
    c.lemma("additions", c.probe("dut.added", written) == Cat(adds[1:]))
    c.lemma("leaving", c.probe("dut.left", dut.latency) == Cat(leaves[1:]))
    size = len(words[0])
    word_line = c.probe("dut.word_line", (read - 1) * size)
    address = c.probe("dut.address", size)
    address_line = c.probe("dut.address_line", MODIFY * size)
    begin_line = c.probe("dut.begin_line", _ARRIVES)
    chosen_line = c.probe("dut.chosen_line", 2 * _ARRIVES)

    def held(at: int) -> Value:
        """The module's word `at` cycles after it entered."""
        if at < read:
            return word_line.word_select(at - 1, size)
        return address if at == read else address_line.word_select(at - read - 1, size)

    assert written == dut.latency
    for k in range(1, written + 1):
        c.lemma(f"word {k}", implies(adds[k] | leaves[k], held(k) == words[k]))
        c.lemma(f"hit {k}", hits[k] == (adds[k] & (words[k] == of.number)))
        c.lemma(f"look {k}", looks[k] == (leaves[k] & (words[k] == of.number)))
    for k in range(1, _ARRIVES + 1):
        c.lemma(f"begin {k}", implies(hits[k], begin_line[k - 1] == of.begins[k]))
        chosen = chosen_line.word_select(k - 1, 2)
        c.lemma(f"chosen {k}", implies(looks[k], chosen == of.beats[k]))
    since = c.wire("since", Cat(hits[1:AGAIN]))
    c.lemma("age", implies(since.any(), (of.age < AGAIN) & (since == 1 << (of.age - 1)[:3])))
    for k in range(1, written + 1):
        near = Cat(hits[max(1, k - AGAIN + 1) : k], looks[max(1, k - AGAIN + 1) : k])
        c.lemma(f"distance {k}", implies(hits[k], ~near.any()))


def _places(c: Check[ColumnSums], of: _Column) -> None:
    """Where the sums are: in memory, on the way from it through the adders, on the way out."""
    hits, looks = of.hits, of.looks
    read, sums, known = c.dut.at_read, of.sums[0][:-1], of.sums[0][-1]
    half_way, last = _ARRIVES + 1, read + MODIFY
    assert last == half_way + 1, "two cycles from arriving to being written"
    pending = c.wire("pending", Cat(hits[half_way : last + 1]).any())
    bits = word_layout().size
    for number in range(_BLOCKS * PARTS):
        cell = _of_lane(c.probe(f"dut.memory.ram.words[{number}]", bits))
        here = known & (of.number == number) & ~pending
        c.lemma(f"cell {number}", implies(here, cell == sums))
    for k, name in ((1, "other_stage"), (READ_LATENCY, "other_out")):
        got = _of_lane(c.probe(f"dut.memory.ram.{name}", bits))
        c.lemma(f"read {k}", implies(known & (hits[read + k] | looks[read + k]), got == sums))
    value = c.probe(f"dut.value_{_LANE}", VALUE_BITS)
    low = c.probe(f"dut.low_{_LANE}", HALF + 1)
    high = c.probe(f"dut.high_{_LANE}", SQUARE_BITS - HALF)
    more = c.probe(f"dut.more_{_LANE}", 2 * MAGNITUDE - HALF)
    upper = (Mux(c.probe("dut.begun"), 0, high) + more + low[HALF])[: SQUARE_BITS - HALF]
    adding = Cat(_extended(value), low[:HALF], upper)
    c.lemma("half way", implies(hits[half_way] & known, adding == sums))
    fresh = _of_lane(c.probe("dut.new", bits))
    c.lemma("new", implies(hits[last] & known, fresh == sums))
    picked, before = c.probe("dut.picked", BEAT)[_SHARE], of.sums[1]
    mine = looks[half_way] & (of.beats[half_way] == _MINE)
    c.lemma("picked", implies(mine & before[-1], picked == before[:-1]))


def _extended(value: Value) -> Value:
    """S1 as 64 bits."""
    return Cat(value, value[-1].replicate(64 - VALUE_BITS))


def _of_lane(word: Value) -> Value:
    """The column's sums in a word of the memory, S1 as 64 bits."""
    at_value, at_square = _LANE * VALUE_BITS, LANES * VALUE_BITS + _LANE * SQUARE_BITS
    value = word[at_value : at_value + VALUE_BITS]
    return Cat(_extended(value), word[at_square : at_square + SQUARE_BITS])


def properties() -> Iterator[Property]:
    """S1 and S2 of any column."""
    yield Property(
        "post.sums", "ColumnSums, 1 block",
        "a beat of SUMS has for each of its columns the sum of all integers, and of all squares, "
        "that were added since BEGIN entered and before it did; additions to a column and what "
        "reads it are 8 cycles apart (`post.columns`)",
        lambda: _column_sums(), _memory,
        mutants=(
            Mutant("carry-wrong", _SUMS, "more + low[HALF]", "more + ~low[HALF]"),
            Mutant("written-late", _SUMS, "(m, address, MODIFY,", "(m, address, MODIFY + 1,"),
            Mutant("counts-none", _SUMS, "(job.path == Path.SUM) & (job.sums != SumMode.NONE)",
                   "job.path == Path.SUM"),
            Mutant("next-quarter", _SUMS, "m.Case(number)", "m.Case(number ^ 1)"),
        ),
    )  # fmt: skip
