# SPDX-License-Identifier: Apache-2.0
"""The array multiplies the right weights: each step takes the vectors of its stripes, in order.

The checker counts passes, stripes and columns of an instruction with no notion of rounds whose
ports settle ahead. The codes of a vector travel with its scale, in the same words; the scale alone
is compared.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from amaranth.hdl import Cat, Const, Mux, Signal, Value

from lutvar.contract.accelerator import STRIPE, AcceleratorConfig, load_accelerator
from lutvar.hw.matrix.conductor import Conductor
from lutvar.sim.formal.harness import Check, implies
from lutvar.sim.formal.property import Mutant, Property

_CONDUCTOR = "lutvar.hw.matrix.conductor"
_PORTS = 4
_CONFIG = AcceleratorConfig.model_validate(
    {**load_accelerator("small-fp4").model_dump(), "rows": 64, "weight_ports": _PORTS,
     "max_sections": _PORTS}
)  # fmt: skip


def _steps(c: Check[Conductor]) -> None:
    dut: Any = c.dut
    m = c.m
    work, steps = dut.work, dut.steps
    offered = work.payload
    c.assume(
        ~work.valid | ((offered.groups != 0) & (offered.stripes != 0) & (offered.sections != 3))
    )
    coming_valid = c.previous("soon_before", dut.soon)
    c.assume(Cat(v.valid for v in dut.vectors) == coming_valid)
    accepted = c.wire("accepted", work.valid & work.ready)
    takes = Cat(v.valid & v.ready for v in dut.vectors)
    taken = c.wire("taken", takes.any())

    # The work under way: passes, the first stripe of the round, the column within the stripe.
    here = Signal()
    kept = Signal(len(Value.cast(offered)), name="kept")
    o: Any = offered.shape()(kept)
    passes, total = Signal(10), Signal(9)  # complete ones; all
    stripe, column, rounds = Signal(8), Signal(7), Signal(8)
    count = Signal(3)
    m.d.comb += [
        count.eq(Mux(o.sections[1], 4, Mux(o.sections[0], 2, 1))),
        total.eq(Mux(o.twice, o.groups << 1, o.groups)),
    ]
    round_ends = column == STRIPE - 1
    pass_ends = c.wire("pass_ends", round_ends & (stripe + count >= o.stripes))
    over = c.wire("over", taken & pass_ends & (passes + 1 == total))
    # Section k has stripe `stripe + k`, which is on port `stripe + k` modulo the ports.
    has = [(k < count) & (stripe + k < o.stripes) for k in range(_PORTS)]
    ports = Cat(
        Cat(has[k] & ((stripe + k)[:2] == port) for k in range(_PORTS)).any()
        for port in range(_PORTS)
    )
    with m.If(accepted):
        m.d.sync += [
            here.eq(1), kept.eq(offered), passes.eq(0), stripe.eq(0), column.eq(0), rounds.eq(0),
        ]  # fmt: skip
    with m.Elif(taken):
        m.d.sync += [here.eq(~over), column.eq(column + 1)]
        with m.If(round_ends):
            m.d.sync += [
                stripe.eq(Mux(pass_ends, 0, stripe + count)),
                rounds.eq(Mux(pass_ends, 0, rounds + 1)),
            ]
        with m.If(pass_ends):
            m.d.sync += passes.eq(passes + 1)
    c.require("no vector without a work", implies(taken, here))
    c.require("no work before the one before it is over", implies(accepted, ~here | over))
    c.require("the vectors of the round's stripes, together", implies(taken, takes == ports))
    stuck = c.previous("stuck", steps.valid & ~steps.ready)
    stepped = c.previous("stepped", taken)
    c.require("a step from vectors", implies(steps.valid, stuck | stepped))
    c.require("no vector without a step", implies(stepped, steps.valid))

    # What the step must be, from the cycle in which its vectors were taken.
    for k in range(_PORTS):
        right: Value = Const(0, 16)
        for port, vector in enumerate(dut.vectors):
            right = Mux((stripe + k)[:2] == port, vector.payload.ws, right)
        expected = c.previous(f"expected_{k}", right)
        meant = c.previous(f"meant_{k}", has[k])
        got = steps.payload.vectors[k].ws
        c.require(f"vector of section {k}", implies(stepped & meant, got == expected))
    width = len(steps.payload.column)
    marks = Cat(
        (passes == 0) & ~o.more, pass_ends, pass_ends & (passes + 1 == total), o.acc_bank,
        Cat(column, rounds, Const(0, width))[:width], Value.cast(o.exponent), o.sections,
    )  # fmt: skip
    p = steps.payload
    got = Cat(p.first, p.end, p.last, p.bank, p.column, Value.cast(p.exponent), p.sections)
    c.require("its place", implies(stepped, got == c.previous("marks", marks)))

    # The unit's own place.
    left, base = c.probe("dut.left", 7), c.probe("dut.base", 2)
    due = c.probe("dut.due", _PORTS)
    own, passes_left = c.probe("dut.column", width), c.probe("dut.passes_left", 9)
    ended = c.probe("dut.round_end")
    c.lemma("active", c.probe("dut.active") == here)
    c.lemma("work", implies(here, c.probe("dut.work", len(kept)) == kept))
    c.lemma("legal", implies(here, (o.groups != 0) & (o.stripes != 0) & (o.sections != 3)))
    c.lemma("passes", implies(here, (passes < total) & (passes_left == total - 1 - passes)))
    c.lemma("first", implies(here, c.probe("dut.first") == (passes == 0)))
    c.lemma("stripe", implies(here, (stripe < o.stripes) & ((stripe & (count - 1)) == 0)))
    c.lemma("left", implies(here, left == o.stripes - stripe))
    c.lemma("base", implies(here, base == stripe[:2]))
    c.lemma("due", implies(here, due == ports))
    valid = Cat(v.valid for v in dut.vectors)
    c.lemma("lacking", implies(here, c.probe("dut.lacking") == (due & ~valid).any()))
    c.lemma("column", implies(here, own == Cat(column, rounds, Const(0, width))[:width]))
    c.lemma("end", ended == (here & round_ends))
    # What is known of the next round, a cycle after what it follows from.
    final = stripe + count >= o.stripes
    after = Mux(final, 0, stripe + count)[:8]
    one, two, three = (here & (column >= n) for n in (1, 2, 3))
    c.lemma("final pass", implies(one, c.probe("dut.final_pass") == (passes_left == 0)))
    c.lemma("final round", implies(one, c.probe("dut.final_round") == final))
    c.lemma("next left", implies(two, c.probe("dut.next_left", 7) == o.stripes - after))
    c.lemma("next base", implies(two, c.probe("dut.next_base", 2) == after[:2]))
    coming = [(k < count) & (after + k < o.stripes) for k in range(_PORTS)]
    then = Cat(
        Cat(coming[k] & ((after + k)[:2] == port) for k in range(_PORTS)).any()
        for port in range(_PORTS)
    )
    c.lemma("next due", implies(three, c.probe("dut.next_due", _PORTS) == then))


def properties() -> Iterator[Property]:
    """All of this file."""
    yield Property(
        "matrix.steps", f"Conductor, {_PORTS} weight ports, {_PORTS} sections",
        "a step takes a vector from each port that has a stripe of the round, and from no other; "
        "each section that has a stripe gets its vector; passes, columns and ends are right for "
        "every number of stripes and sections",
        lambda: Conductor(_CONFIG), _steps,
        mutants=(
            Mutant("all-ports", _CONDUCTOR, "(base == port - offset) & (left > offset)",
                   "(base == port - offset)"),
        ),
    )  # fmt: skip
