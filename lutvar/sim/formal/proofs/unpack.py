# SPDX-License-Identifier: Apache-2.0
"""MATRIX takes of the weights exactly the beats that its instruction owns, or says which is wrong.

The checker counts beats of a pass with no notion of halves, sides and codes: a pass has as many as
`contract.memory` says that a panel has. Lemmas tie the unit's own place in a block to that count.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from amaranth.hdl import Mux, Signal, Value

from lutvar.contract.accelerator import load_accelerator
from lutvar.contract.memory import HALF_BLOCK, block_beats
from lutvar.hw.matrix.unpack import WeightUnpack
from lutvar.sim.formal.harness import Check, implies
from lutvar.sim.formal.property import Mutant, Property

_CONFIG = load_accelerator("small-fp4")
_UNPACK = "lutvar.hw.matrix.unpack"
_PLAIN, _BIASED = (block_beats(_CONFIG.quant_config.code_bits, first) for first in (False, True))
_BEATS = (511 * _BIASED).bit_length()


def _times(value: Value, factor: int) -> Value:
    """A product with a constant, of shifts: Yosys' own would have cells that abc does not know."""
    terms = [value << n for n in range(factor.bit_length()) if factor >> n & 1]
    return sum(terms[1:], start=terms[0])


def _unpack(c: Check[WeightUnpack]) -> None:
    dut: Any = c.dut
    m = c.m
    work, beats, vectors = dut.work, dut.beats, dut.vectors
    c.assume(~work.valid | ((work.payload.groups != 0) & (work.payload.blocks != 0)))
    accepted = c.wire("accepted", work.valid & work.ready)
    taken = c.wire("taken", beats.valid & beats.ready)

    # The work under way, its passes and the beats of the current one.
    here, wrong, early = Signal(), Signal(), Signal()
    groups, blocks, twice = Signal(8), Signal(9), Signal()
    passes, count = Signal(10), Signal(_BEATS)  # complete ones; beats of this one
    total, length, now = Signal(9), Signal(_BEATS), Signal(_BEATS)
    biased = (passes == 0) | ((passes == 1) & twice)
    m.d.comb += [
        total.eq(Mux(twice, groups << 1, groups)),
        length.eq(Mux(biased, _times(blocks, _BIASED), _times(blocks, _PLAIN))),
        now.eq(count + 1),
    ]
    ends = c.wire("ends", now == length)
    over = c.wire("over", taken & ends & (passes + 1 == total))
    with m.If(accepted):
        m.d.sync += [
            here.eq(1), groups.eq(work.payload.groups), blocks.eq(work.payload.blocks),
            twice.eq(work.payload.twice), passes.eq(0), count.eq(0),
        ]  # fmt: skip
    with m.Elif(over):
        m.d.sync += here.eq(0)
    with m.If(taken & ~accepted):
        m.d.sync += [count.eq(Mux(ends, 0, now)), passes.eq(passes + ends)]
    error = wrong | early
    m.d.sync += [
        wrong.eq(wrong | (taken & ends & ~beats.payload.last)),
        early.eq(early | (taken & ~ends & beats.payload.last)),
    ]
    c.require("no beat without its work", implies(taken, here))
    c.require("no work before the one before it is over", implies(accepted, ~here | over))
    c.require("surplus is told", dut.surplus == wrong)
    c.require("missing is told", dut.missing == early)
    c.require("nothing after an error", implies(error, ~taken & ~accepted))
    # Codes come from the beat that was taken last.
    data = c.previous("beat_before", beats.payload.data)
    held = c.previous("vector_held", vectors.valid & ~vectors.ready)
    c.require("codes", implies(vectors.valid & ~held, vectors.payload.codes == data))

    # The unit's own place: done blocks, then sides and codes of this one.
    left, half, place = (
        c.probe("dut.blocks_left", 9), c.probe("dut.half"), c.probe("dut.place", 4)
    )  # fmt: skip
    scales, bias = c.probe("dut.scales_due"), c.probe("dut.bias_due")
    halted, active = c.probe("dut.halted"), c.probe("dut.active")
    own_biased, first = c.probe("dut.biased"), c.probe("dut.first")
    last_pass, last_block = c.probe("dut.final_pass"), c.probe("dut.final_block")
    kept = c.probe("dut.work", 42)
    done, sides = Signal(9), Signal(2)
    m.d.comb += [
        done.eq(blocks - 1 - left),
        sides.eq(1 - scales + Mux(own_biased, Mux(half, 2 - bias, 1 - bias), 0)),
    ]
    own = Signal(_BEATS)
    m.d.comb += own.eq(
        Mux(own_biased, _times(done, _BIASED), _times(done, _PLAIN))
        + Mux(half, HALF_BLOCK, 0)
        + place
        + sides
    )
    alive = ~error
    running = here & alive
    c.lemma("active", implies(alive, active == here))
    c.lemma("halted", halted == error)
    c.lemma("its work", implies(here, (kept[:8] == groups) & (kept[8:17] == blocks)))
    c.lemma("its kind", implies(here, (kept[17] == twice) & (groups != 0) & (blocks != 0)))
    c.lemma("place", implies(running, own == count))
    c.lemma("beats", implies(running, count < length))
    c.lemma("blocks", implies(running, left < blocks))
    passes_left = c.probe("dut.passes_left", 9)
    c.lemma("passes", implies(running, (passes < total) & (passes_left == total - 1 - passes)))
    c.lemma("biased", implies(running, own_biased == biased))
    c.lemma("first", implies(running, first == (passes == 0)))
    c.lemma("between works", implies(~here & alive, own_biased & ~half & (place == 0)))
    c.lemma("due at first", implies(~here & alive, scales & bias))
    start = ~half & (place == 0)
    c.lemma("scales are due at a block's start", implies(scales, start))
    c.lemma("biases with a half", implies(bias, (place == 0) & own_biased))
    c.lemma("scales before biases", implies(scales & own_biased, bias))
    c.lemma("half", c.probe("dut.half_end") == (place == HALF_BLOCK - 1))
    known = here & (place != 0)
    c.lemma("last block", implies(known, last_block == (left == 0)))
    c.lemma("last pass", implies(known, last_pass == (passes_left == 0)))
    following: Value = Mux(left == 0, Mux(passes_left == 0, 1, (passes == 0) & twice), own_biased)
    later = running & (place > 1)
    coming = c.probe("dut.scales_coming"), c.probe("dut.bias_coming")
    c.lemma("scales to come", implies(later, coming[0] == half))
    c.lemma("biases to come", implies(later, coming[1] == Mux(half, following, own_biased)))
    c.lemma("one step", c.probe("dut.phase") == 0)


def properties() -> Iterator[Property]:
    """All of this file."""
    yield Property(
        "matrix.weights", "WeightUnpack of small-fp4",
        "a work takes the beats of its passes and no others; `last` with another beat than the "
        "last of a pass, or an end without it, is told at once, and nothing is taken after it",
        lambda: WeightUnpack(_CONFIG), _unpack,
        mutants=(
            Mutant("goes-on", _UNPACK, "known & ~self._sides_due", "active & ~self._sides_due"),
            Mutant("only-at-ends", _UNPACK, "last & ((codes_taken & ~ends) | side)",
                   "last & ((codes_taken & ends) | side)"),
            Mutant("ahead-of-work", _UNPACK, "known = active & ~halted", "known = ~halted"),
            Mutant("two-works", _UNPACK, "(~active & ~halted) | (produce & all_end)",
                   "(~active & ~halted) | produce"),
        ),
    )  # fmt: skip
