# SPDX-License-Identifier: Apache-2.0
"""POST's sums of columns: a sum is in memory before its column comes again."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from amaranth.hdl import Cat, Mux, Signal, Value

from lutvar.contract.accelerator import load_accelerator
from lutvar.hw.post.column_sums import AGAIN
from lutvar.hw.post.issue import Issue
from lutvar.hw.post.lanes import LaneTimes
from lutvar.hw.post.orders import PARTS, Path
from lutvar.sim.formal.harness import Check, implies
from lutvar.sim.formal.property import Mutant, Property

_ISSUE = "lutvar.hw.post.issue"
_PLACES = 16  #: for results; their number has no part in this
_TIMES = LaneTimes.of(load_accelerator("small-fp4"))
# Of both forms of `MultiplyAdd`: no result leaves earlier, which the check assumes.
assert min(LaneTimes.of(load_accelerator(n)).sums for n in ("small-fp4", "small-dsp-fp4")) >= AGAIN


def _issue() -> Issue:
    return Issue(_TIMES, _PLACES, True, True)


def _columns(c: Check[Issue]) -> None:
    dut, m = c.dut, c.m
    job: Any = dut.job.payload
    word = Value.cast(job)
    # A job stays until it is taken, and its marks belong to its path.
    waits = c.previous("waits", dut.job.valid & ~dut.job.ready)
    c.assume(~waits | (dut.job.valid & (word == c.previous("job_before", word))))
    single = (job.path != Path.GELU) & (job.path != Path.RECORD)
    c.assume((job.path <= Path.COLUMNS) & (job.single == single))
    c.assume(~single | (job.whole & ~job.upper))
    c.assume((job.fours == (job.path == Path.RECORD)) & (job.pairs == (job.path == Path.NORM)))
    c.assume(job.alone == ((job.path == Path.NORM) | (job.path == Path.COLUMNS)))
    is_sum = c.wire("is_sum", dut.job.valid & (job.path == Path.SUM))

    # Some part of 16 columns, and how long ago it entered, 8 cycles or more counted as 8.
    part = c.rigid("part", range(PARTS))
    enters = c.wire("enters", dut.fire & (job.path == Path.SUM) & (dut.part == part))
    age = Signal(range(AGAIN + 1), init=AGAIN)
    with m.If(enters):
        m.d.sync += age.eq(1)
    with m.Elif(age < AGAIN):
        m.d.sync += age.eq(age + 1)
    c.require("a part enters while its job is there", implies(dut.fire, dut.job.valid))
    c.require("the same columns after 8 cycles or more", implies(enters, age >= AGAIN))

    # SUMS begins with empty lanes, which no result leaves before the 8th cycle.
    entering = c.probe("dut.enter")
    young = Signal(AGAIN - 1)  # bit k: a result entered k + 1 cycles ago
    old = Signal(range(_PLACES + 2))  # in the lanes for longer
    m.d.sync += [young.eq(Cat(entering, young)), old.eq(old + young[-1] - dut.left)]
    c.assume(implies(dut.left, old != 0))
    behind = Signal(range(_PLACES + 2))  # left the lanes, not yet for memory
    m.d.sync += behind.eq(behind + dut.left - dut.sent)
    c.assume(implies(dut.sent, behind != 0))
    added = Signal(AGAIN - 1)  # as `young`, of sums
    m.d.sync += added.eq(Cat(dut.fire & (job.path == Path.SUM), added))
    reads = dut.fire & (job.path == Path.COLUMNS)
    c.require("SUMS reads 8 cycles after the last addition or later", implies(reads, added == 0))

    inside = c.probe("dut.inside", range(_PLACES + 1))
    places, some = c.probe("dut.places", range(_PLACES + 1)), c.probe("dut.places_some")
    c.lemma("in the lanes", inside == sum((young[k] for k in range(AGAIN - 1)), old))
    c.lemma("places", (places + inside + behind == _PLACES) & (some == (places != 0)))
    c.lemma("sums are results", (added & ~young) == 0)
    c.lemma("no sums while SUMS", implies(c.probe("dut.path", 3) == Path.COLUMNS, added == 0))
    step = c.probe("dut.step", range(PARTS))
    c.lemma("between jobs", implies(~dut.job.valid, step == 0))
    # Since the part entered, the later ones of its row have, and those of this row so far.
    rest = PARTS - part
    since = Mux(is_sum, Mux(step > part, step - part, rest + step), rest)
    c.lemma("age", (age >= AGAIN) | (age >= since))


def properties() -> Iterator[Property]:
    """The distance that `ColumnSums` depends on."""
    yield Property(
        "post.columns", "Issue, small-fp4",
        "results of the same columns are at least 8 cycles apart, whatever rows and instructions "
        "they belong to, and SUMS reads no earlier behind them: `ColumnSums` writes a sum 4 cycles "
        "after it is read, before it is read again",
        # A name that is looked up late: mutants replace it.
        lambda: _issue(), _columns,
        mutants=(
            Mutant("two-parts", _ISSUE, "Mux(job.single, 1, 2)", "2"),
            Mutant("half-row", _ISSUE, "(step[2] | ~job.whole)", "step[1]"),
            Mutant("not-empty", _ISSUE, "alone = self.job.payload.alone | (path == Path.NORM)",
                   "alone = (path == Path.NORM)"),
        ),
    )  # fmt: skip
