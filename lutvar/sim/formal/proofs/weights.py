# SPDX-License-Identifier: Apache-2.0
"""Readings of panels: those that FETCH brings and MATRIX needs add up before anything is sent."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from amaranth.hdl import Cat, Mux, Signal, Value, signed

from lutvar.contract.isa import HEADER_FIELDS, PAYLOAD_FIELDS, READINGS_AHEAD, Opcode, OperandField
from lutvar.hw.sequencer.checks import CHECK_LATENCY
from lutvar.hw.sequencer.weights import WeightCredit
from lutvar.sim.formal.harness import Check, implies
from lutvar.sim.formal.property import Mutant, Property

_WEIGHTS = "lutvar.hw.sequencer.weights"
_PORTS = 4
_WIDE = READINGS_AHEAD.bit_length() + 4  #: bits for the count in integers


def _weight_credit(c: Check[WeightCredit]) -> None:
    dut, m = c.dut, c.m

    def field(item: OperandField) -> Value:
        return dut.word[item.low : item.low + item.width]

    op = field(HEADER_FIELDS[0])
    fetch, matrix = (
        {item.name: field(item) for item in PAYLOAD_FIELDS[code]}
        for code in (Opcode.FETCH, Opcode.MATRIX)
    )
    is_fetch, is_matrix = op == Opcode.FETCH, op == Opcode.MATRIX
    # Other values of `repeat` break the rule BEATS, both bits the rule TERMS (`sequencer.rules`).
    legal = ~is_fetch | (fetch["repeat"] == 1) | (fetch["repeat"] == 2)
    legal = legal & ~(is_matrix & matrix["dual"] & matrix["terms"])
    brings = fetch["panels"] * fetch["repeat"]
    needs = Mux(matrix["dual"] ^ matrix["terms"], 2 * matrix["groups"], matrix["groups"])
    counts, afters = [], []
    for port in range(dut.ports):
        count = Signal(signed(_WIDE), name=f"count_{port}")
        after = Signal(signed(_WIDE), name=f"after_{port}")
        # Stripe b of 128 outputs is on port b modulo the ports; the first `full` ports have
        # `beats`, the others `rest`. The first port always has a share: the rules BEATS, OUTPUTS.
        brought = (port == 0) | (port < fetch["full"]) | (fetch["rest"] > 0)
        needed = (port == 0) | (matrix["blocks"] >= 4 * (port + 1))
        m.d.comb += after.eq(
            count + Mux(is_fetch & brought, brings, 0) - Mux(is_matrix & needed, needs, 0)
        )
        counts.append(count)
        afters.append(after)

    # An instruction is judged, and dispatched, when it has been there for long enough.
    changed = c.previous("changed", dut.push | dut.clear)
    same = c.wire("same", (dut.word == c.previous("word_before", dut.word)) & ~changed)
    age, now = Signal(range(CHECK_LATENCY + 1)), Signal(range(CHECK_LATENCY + 1))
    m.d.comb += now.eq(Mux(same, Mux(age == CHECK_LATENCY, age, age + 1), 0))
    m.d.sync += age.eq(now)
    settled = c.wire("settled", now == CHECK_LATENCY)
    c.assume(~dut.push | (settled & ~dut.broken & legal & (op != Opcode.END)))
    with m.If(dut.clear):
        m.d.sync += [count.eq(0) for count in counts]
    with m.Elif(dut.push):
        m.d.sync += [count.eq(after) for count, after in zip(counts, afters, strict=True)]

    wrong = Cat(
        (after < 0) | (after >= READINGS_AHEAD) | ((op == Opcode.END) & (count != 0))
        for count, after in zip(counts, afters, strict=True)
    ).any()
    c.require("the rule WEIGHTS", implies(settled & legal, dut.broken == wrong))
    for port, count in enumerate(counts):
        c.require(f"the count stays in its range {port}", (count >= 0) & (count < READINGS_AHEAD))
        credit: Any = c.probe(f"dut.credit_{port}", READINGS_AHEAD.bit_length() - 1)
        c.lemma(f"credit {port}", credit == count)


def properties() -> Iterator[Property]:
    """All of this file."""
    yield Property(
        "sequencer.weights", f"WeightCredit, {_PORTS} weight ports",
        "an instruction is refused exactly when MATRIX would need readings that no FETCH before "
        f"it brings, when {READINGS_AHEAD:,} or more were ahead, or when END leaves some over, on "
        "any port",
        # A name that is looked up late: mutants replace it.
        lambda: WeightCredit(_PORTS), _weight_credit, depth=CHECK_LATENCY + 1,
        mutants=(
            Mutant("dual-once", _WEIGHTS, 'Mux(twice, matrix["groups"] << 1',
                   'Mux(twice, matrix["groups"]'),
            Mutant("terms-once", _WEIGHTS, 'matrix["dual"] | matrix["terms"]', 'matrix["dual"]'),
            Mutant("end-ignored", _WEIGHTS, "following[-1] | (ended & (following != 0))",
                   "following[-1]"),
            Mutant("first-port-only", _WEIGHTS, "stripes > port if port else Const(1)", "Const(1)"),
            Mutant("never-cleared", _WEIGHTS, "m.d.sync += credit.eq(0)",
                   "m.d.sync += credit.eq(credit)"),
        ),
    )  # fmt: skip
