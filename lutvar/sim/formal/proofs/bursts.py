# SPDX-License-Identifier: Apache-2.0
"""Transfers cut into bursts, and the windows that they have to lie in."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from amaranth.hdl import Cat, Const, Mux, Signal, Value

from lutvar.hw.axi.split import BurstSplitter
from lutvar.hw.axi.windows import WindowCheck
from lutvar.hw.links import BEAT_ADDRESS, MAX_BURST, WINDOWS
from lutvar.sim.formal.harness import Check, implies
from lutvar.sim.formal.property import Mutant, Property

from .order import Follow, prompt, stable

_SPLIT = "lutvar.hw.axi.split"
_WINDOWS = "lutvar.hw.axi.windows"
_BITS = MAX_BURST.bit_length() - 1


def fixed_windows(c: Check[Any], windows: Any) -> None:
    """The environment changes no window, from reset to reset."""
    value = Value.cast(windows)
    before, known = c.previous("windows_before", value), Signal(name="windows_known")
    c.m.d.sync += known.eq(1)
    c.assume(~known | (value == before))


def in_a_window(windows: Any, address: Value, beats: Value) -> Value:
    """The rule itself, in integers."""
    inside = [
        (address >= windows[n].base) & (address + beats <= windows[n].limit)
        for n in range(WINDOWS)
    ]  # fmt: skip
    return Cat(inside).any()


def _splitter(c: Check[BurstSplitter]) -> None:
    i, o, m = c.dut.i, c.dut.o, c.m
    burst: Any = o.payload
    transfer = Cat(i.payload.address[6:], i.payload.beats)
    c.assume(~i.valid | (i.payload.beats != 0))
    fixed_windows(c, c.dut.windows)

    begun = Signal()  # bursts of this transfer have left
    following, start = Signal(BEAT_ADDRESS), Signal(BEAT_ADDRESS)
    total, total_now = Signal(20), Signal(20)
    start_now = Signal(BEAT_ADDRESS)
    m.d.comb += [
        total_now.eq(Mux(begun, total, 0) + burst.beats),
        start_now.eq(Mux(begun, start, burst.address)),
    ]
    moves = c.wire("moves", o.valid & o.ready)
    with m.If(moves):
        m.d.sync += [
            begun.eq(~burst.last), following.eq(burst.address + burst.beats),
            start.eq(start_now), total.eq(total_now),
        ]  # fmt: skip
    f = Follow(
        c, "transfers", i.valid & i.ready, transfer, moves & burst.last,
        Cat(start_now, total_now), 3,
    )  # fmt: skip
    stable(c, "o", o.valid, o.ready, burst)
    age = prompt(c, "offer", f.inside != 0, o.valid, 2)
    low = burst.address[:_BITS]
    c.require("1 to 16 beats", implies(o.valid, (burst.beats != 0) & (burst.beats <= MAX_BURST)))
    c.require("within 1 KiB", implies(o.valid, low + burst.beats <= MAX_BURST))
    c.require("no gap, no overlap", implies(o.valid & begun, burst.address == following))
    c.require("cut at blocks alone", implies(o.valid & ~burst.last, low + burst.beats == MAX_BURST))
    beats = f.word[BEAT_ADDRESS:]
    current = c.wire("current", f.is_next & o.valid)
    c.require("no more than the transfer", implies(current & ~burst.last, total_now < beats))
    # The check judges what it was loaded with; `bursts.window` says how.
    loaded = Signal(len(transfer))
    judged = c.probe("dut.check.transfer", 84)
    with m.If(c.probe("dut.check.load")):
        m.d.sync += loaded.eq(Cat(judged[6:64], judged[64:]))
    c.require("the check judges the whole transfer", implies(current, loaded == f.word))
    c.require("inside comes from the check", burst.inside == c.probe("dut.check.inside"))

    has_first, has_second = c.probe("dut.has_first"), c.probe("dut.has_second")
    first, second = c.probe("dut.first", 84), c.probe("dut.second", 84)
    left = c.probe("dut.left", 20)
    c.lemma("count", f.inside == o.valid + has_first + has_second)
    c.lemma("places in order", implies(has_second, has_first))
    c.lemma("begun", implies(begun, o.valid))
    c.lemma("age", implies((f.inside != 0) & ~o.valid, age == 0))
    c.lemma("first is not empty", implies(has_first, first[64:] != 0))
    c.lemma("second is not empty", implies(has_second, second[64:] != 0))
    large, room = c.probe("dut.large"), c.probe("dut.room", _BITS + 1)
    c.lemma("large", implies(has_first, large == first[64 + _BITS + 1 :].any()))
    c.lemma("room", implies(has_first, room == MAX_BURST - first[6 : 6 + _BITS]))
    c.lemma("more beats are left", implies(o.valid & ~burst.last, left != 0))
    at_first = c.wire("at_first", f.waits & (f.ahead == o.valid))
    at_second = c.wire("at_second", f.waits & (f.ahead == o.valid + Const(1)))
    c.lemma("marked first", implies(at_first, Cat(first[6:64], first[64:]) == f.word))
    c.lemma("marked second", implies(at_second, Cat(second[6:64], second[64:]) == f.word))
    rest = Mux(burst.last, 0, left)
    c.lemma("marked start", implies(current, start_now == f.word[:BEAT_ADDRESS]))
    c.lemma("marked sum", implies(current, (total_now + rest == beats)))


def _window(c: Check[WindowCheck]) -> None:
    dut: Any = c.dut
    fixed_windows(c, dut.windows)
    known = Signal()
    address, beats = Signal(BEAT_ADDRESS), Signal(20)
    with c.m.If(dut.load):
        c.m.d.sync += [
            known.eq(1), address.eq(dut.transfer.address[6:]), beats.eq(dut.transfer.beats)
        ]  # fmt: skip
    expected = in_a_window(dut.windows, address, beats)
    c.require("inside is exact", implies(known, dut.inside == expected))
    above, below = c.probe("dut.above", WINDOWS), c.probe("dut.below", WINDOWS)
    for n in range(WINDOWS):
        window = dut.windows[n]
        c.lemma(f"above {n}", implies(known, above[n] == (address >= window.base)))
        c.lemma(f"below {n}", implies(known, below[n] == (address + beats <= window.limit)))


def properties() -> Iterator[Property]:
    """All of this file."""
    yield Property(
        "bursts.split", "BurstSplitter",
        "the bursts of a transfer cover it exactly and in order, each within 1 KiB and cut nowhere "
        "else; `inside` says exactly whether it lies in a window; offered within 2 cycles",
        lambda: BurstSplitter(), _splitter,
        mutants=(
            Mutant("last-early", _SPLIT, "few > room", "few >= room"),
            Mutant("full-short", _SPLIT, "Mux(full, MAX_BURST, left[:_ALIGNED])",
                   "Mux(full, MAX_BURST - 1, left[:_ALIGNED])"),
            Mutant("second-lost", _SPLIT, "accept.eq(self.i.valid & ~has_second)",
                   "accept.eq(self.i.valid)"),
        ),
    )  # fmt: skip
    yield Property(
        "bursts.window", "WindowCheck",
        "`inside` says exactly whether the transfer loaded last lies in a window, in integers",
        lambda: WindowCheck(), _window,
        mutants=(
            Mutant("limit-off", _WINDOWS, "total - ~Cat(1, carry)", "total - ~Cat(0, carry)"),
            Mutant("base-or-limit", _WINDOWS, "(above & below).any()",
                   "(above | below).any()"),
        ),
        seconds=300,
    )  # fmt: skip
