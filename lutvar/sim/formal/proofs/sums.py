# SPDX-License-Identifier: Apache-2.0
"""The memory of POST's sums: what is handed out is the sum of all that was added before."""

from collections.abc import Iterator
from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal, Value, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

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


def _memory(c: Check[ColumnSums]) -> None:
    dut, m = c.dut, c.m
    job: Any = dut.job
    read = dut.at_read
    arrives = _RESULTS + SumLane.LATENCY  # at the adders, with what was read
    written = read + MODIFY
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
    looks = _line(c, "looks", look, dut.latency)
    begins = _line(c, "begins", begin, arrives)
    value = c.probe(f"dut.sum_lane_{_LANE}.value", BITS)
    square = c.probe(f"dut.sum_lane_{_LANE}.square", 2 * MAGNITUDE)
    total = Signal(VALUE_BITS)
    squares = Signal(SQUARE_BITS)
    known = Signal()  # since a BEGIN
    with m.If(hits[arrives]):
        m.d.sync += [
            total.eq(Mux(begins[arrives], 0, total) + value.as_signed()),
            squares.eq(Mux(begins[arrives], 0, squares) + square),
            known.eq(known | begins[arrives]),
        ]
    sums = c.wire("sums", Cat(total, total[-1].replicate(64 - VALUE_BITS), squares))
    sure: list[Value] = [Cat(sums, known)]
    for k in range(dut.latency - arrives):
        register = Signal(len(sums) + 1, name=f"sums_{k}")
        m.d.sync += register.eq(sure[-1])
        sure.append(register)
    then = c.wire("then", sure[-1])  # what they were when a beat was read that leaves now

    left = _line(c, "left", leaves, dut.latency)
    c.require("one beat for each part", dut.push == left[dut.latency])
    beats = _line(c, "beats", dut.part[:2], dut.latency)
    mine = beats[dut.latency] == _LANE // COLUMNS
    at = _LANE % COLUMNS * (BEAT // COLUMNS)
    c.require(
        "the sums of all before",
        implies(
            looks[dut.latency] & mine & then[-1],
            dut.beat[at : at + BEAT // COLUMNS] == then[:-1],
        ),
    )

    # What induction needs: the module's lines hold what the checker's do.
    words = _line(c, "words", word, written)
    anything = _line(c, "anything", adds, written)
    added = c.probe("dut.added", written)
    c.lemma("additions", added == Cat(anything[1:]))
    c.lemma("leaving", c.probe("dut.left", dut.latency) == Cat(left[1:]))
    size = len(word)
    lines = {
        "word_line": (range(1, read), size), "begin_line": (range(1, arrives + 1), 1),
        "chosen_line": (range(1, arrives + 1), 2),
    }  # fmt: skip
    probes = {n: c.probe(f"dut.{n}", len(at) * bits) for n, (at, bits) in lines.items()}
    address = c.probe("dut.address", size)
    address_line = c.probe("dut.address_line", MODIFY * size)

    def held(at: int) -> Value:
        """The module's word `at` cycles after it entered."""
        if at < read:
            return probes["word_line"].word_select(at - 1, size)
        return address if at == read else address_line.word_select(at - read - 1, size)

    for k in range(1, written + 1):
        c.lemma(f"word {k}", implies(anything[k] | left[min(k, dut.latency)], held(k) == words[k]))
        c.lemma(f"hit {k}", hits[k] == (anything[k] & (words[k] == column)))
    for k in range(1, dut.latency + 1):
        c.lemma(f"look {k}", implies(looks[k], left[k]))
        if k <= written:
            c.lemma(f"look's word {k}", looks[k] == (left[k] & (words[k] == column)))
    for k in range(1, arrives + 1):
        c.lemma(f"begin {k}", implies(hits[k], probes["begin_line"][k - 1] == begins[k]))
        chosen = probes["chosen_line"].word_select(k - 1, 2)
        c.lemma(f"chosen {k}", implies(looks[k], chosen == beats[k]))
    # Additions to the column are 8 cycles apart, and looks as far behind them.
    since = c.wire("since", Cat(hits[1:AGAIN]))
    c.lemma("age", implies(since.any(), (age < AGAIN) & (since == 1 << (age - 1)[:3])))
    for k in range(AGAIN, written + 1):
        near = Cat(hits[k - AGAIN + 1 : k], looks[max(1, k - AGAIN + 1) : k]).any()
        c.lemma(f"distance {k}", implies(hits[k], ~near))
    for k in range(1, AGAIN):
        c.lemma(f"distance {k}", implies(hits[k], ~Cat(looks[1:k]).any()))

    # Where the sums are.
    first, last = arrives + 1, written
    pending = c.wire("pending", Cat(hits[first : last + 1]).any())
    bits = word_layout().size
    at_value, at_square = _LANE * VALUE_BITS, 16 * VALUE_BITS + _LANE * SQUARE_BITS

    def of_lane(whole: Value) -> Value:
        low = whole[at_value : at_value + VALUE_BITS]
        return Cat(
            low, low[-1].replicate(64 - VALUE_BITS), whole[at_square : at_square + SQUARE_BITS]
        )

    for number in range(_BLOCKS * PARTS):
        cell = of_lane(c.probe(f"dut.memory.ram.words[{number}]", bits))
        here = known & (column == number) & ~pending
        c.lemma(f"cell {number}", implies(here, cell == sums))
    for k, name in ((1, "other_stage"), (READ_LATENCY, "other_out")):
        got = of_lane(c.probe(f"dut.memory.ram.{name}", bits))
        c.lemma(f"read {k}", implies(known & hits[read + k], got == sums))
        c.lemma(f"look read {k}", implies(known & looks[read + k], got == sums))
    assert last == first + 1, "two cycles from arriving to being written"
    half = c.probe(f"dut.value_{_LANE}", VALUE_BITS)
    low = c.probe(f"dut.low_{_LANE}", HALF + 1)
    high = c.probe(f"dut.high_{_LANE}", SQUARE_BITS - HALF)
    more = c.probe(f"dut.more_{_LANE}", 2 * MAGNITUDE - HALF)
    carry = Mux(c.probe("dut.begun"), 0, high) + more + low[HALF]
    c.lemma(
        "value",
        implies(
            hits[first] & known,
            (half == total) & (Cat(low[:HALF], carry[: SQUARE_BITS - HALF]) == squares),
        ),
    )
    fresh = of_lane(c.probe("dut.new", bits))
    c.lemma("sum", implies(hits[last] & known, fresh == sums))
    # On the way out: sums of the cycle of reading, and one cycle later.
    picked = c.probe("dut.picked", BEAT)[at : at + BEAT // COLUMNS]
    out = arrives + 1
    c.lemma(
        "picked",
        implies(
            looks[out] & (beats[out] == _LANE // COLUMNS) & sure[1][-1], picked == sure[1][:-1]
        ),
    )


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
