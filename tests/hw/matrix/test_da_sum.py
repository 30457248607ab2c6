# SPDX-License-Identifier: Apache-2.0
"""Columns of bits of form `da`: adders, plans of chains and counters, their sums."""

from __future__ import annotations

from itertools import pairwise, product
from typing import Any

import numpy as np
import pytest
from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.sim import Simulator

from lutvar.contract.accelerator import ROW_GROUP
from lutvar.hw.matrix.da_carry import PlaneAdder
from lutvar.hw.matrix.da_heap import add_columns
from lutvar.hw.matrix.da_plan import Chain, make_plan
from lutvar.hw.verilog import export_verilog
from support.hw import verilated_unit
from support.hw.da import CASES, design

EVERY = np.array(list(product(range(8), range(8), range(2))))  #: a, b, carry


def planes(values: np.ndarray, width: int) -> int:
    """Bit k of value n at place `len(values) * k + n`."""
    bits = (values[None, :] >> np.arange(width)[:, None] & 1).reshape(-1)
    return int("".join(map(str, bits[::-1])), 2)


def check_adder(simulator: Any, unit: Clocked) -> None:
    """Every case in a lane of its own, then in another one."""

    async def testbench(ctx: Any) -> None:
        for turn in range(3):
            a, b, carry = np.roll(EVERY, 17 * turn, axis=0).T
            ctx.set(unit.a, planes(a, 3))
            ctx.set(unit.b, planes(b, 3))
            ctx.set(unit.carry, planes(carry, 1))
            await ctx.tick()
            assert ctx.get(unit.sum) == planes(a + b + carry, 4)

    simulator.add_testbench(testbench)
    simulator.run()


class Clocked(wiring.Component):
    """An adder beside a register, for simulators that want a clock."""

    a: Signal
    b: Signal
    carry: Signal
    sum: Signal
    tick: Signal

    def __init__(self) -> None:
        self.adder = PlaneAdder(len(EVERY), 3)
        super().__init__({**self.adder.signature.members, "tick": Out(1)})

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.submodules.adder = self.adder
        m.d.sync += self.tick.eq(~self.tick)
        m.d.comb += self.sum.eq(self.adder.sum)
        for name in ("a", "b", "carry"):
            m.d.comb += getattr(self.adder, name).eq(getattr(self, name))
        return m


def test_adder() -> None:
    unit = Clocked()
    simulator = Simulator(unit)
    simulator.add_clock(1e-6)
    check_adder(simulator, unit)


@pytest.mark.verilator
@pytest.mark.parametrize("define", ["", "`define SYNTHESIS\n"])
def test_adder_as_verilog(define: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The text has one body for synthesis and another for simulators."""
    monkeypatch.setattr(
        verilated_unit, "export_verilog", lambda *args: define + export_verilog(*args)
    )
    unit = Clocked()
    check_adder(verilated_unit.UnitSimulator(unit, verilated_unit.build_unit(unit)), unit)


class Columns(wiring.Component):
    """The sum of columns of the given heights."""

    bits: Signal
    sum: Signal

    def __init__(self, heights: tuple[int, ...]) -> None:
        self.heights = heights
        super().__init__(
            {"bits": In(sum(heights) * ROW_GROUP), "sum": Out(len(heights) * ROW_GROUP)}
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        held = Signal(len(self.bits))
        m.d.sync += held.eq(self.bits)
        ends = np.cumsum((0, *self.heights)) * ROW_GROUP
        columns = [[held[int(a) : int(b)]] if b > a else [] for a, b in pairwise(ends)]
        m.d.comb += self.sum.eq(Cat(*add_columns(m, columns, "sum")))
        return m


@pytest.mark.parametrize(
    "heights",
    [
        (1,), (2, 2), (3, 2, 0, 0), (4, 1, 4, 1), (4, 4), (5, 5, 5), (0, 0, 9, 0, 0), (37,),
        (6, 11, 14, 11, 6, 0, 0, 0, 0), (3, 6, 10, 13, 13, 10, 6), (0, 3, 7, 2, 12, 1, 5, 0),
    ],
)  # fmt: skip
def test_columns_are_added(heights: tuple[int, ...]) -> None:
    """All ones, all zeros and random bits, a new set in each cycle."""
    unit, rng = Columns(heights), np.random.default_rng(sum(heights))
    weights = np.repeat(1 << np.arange(len(heights)), heights)
    sets = rng.integers(0, 2, (60, sum(heights), ROW_GROUP))
    sets[0], sets[1] = 0, 1
    sets[2, ::2], sets[2, 1::2] = 1, 0
    latency = 1 + len(make_plan(heights).levels)

    async def testbench(ctx: Any) -> None:
        for cycle in range(len(sets) + latency):
            if cycle >= latency:
                expected = (sets[cycle - latency] * weights[:, None]).sum(axis=0)
                modulus = 1 << len(heights)
                assert ctx.get(unit.sum) == planes(expected % modulus, len(heights))
            if cycle < len(sets):
                flat = sets[cycle].reshape(-1)
                ctx.set(unit.bits, int("".join(map(str, flat[::-1])), 2))
            await ctx.tick()

    simulator = Simulator(unit)
    simulator.add_clock(1e-6)
    simulator.add_testbench(testbench)
    simulator.run()


def test_last_chain() -> None:
    assert make_plan([3, 2, 0]).levels == ()
    assert make_plan([4, 1, 2, 4]).last == Chain(0, (4, 1, 2, 4), False)
    assert make_plan([3, 3]).last.carry
    assert len(make_plan([4, 2, 0]).levels) == 1


@pytest.mark.parametrize("name", CASES)
def test_a_site_removes_nearly_one_and_a_half_bits(name: str) -> None:
    d = design(name)
    heights = [0] * d.sum_bits
    for plane, bit in product(range(d.planes), range(d.entry_bits)):
        if plane + bit < d.sum_bits:
            heights[plane + bit] += len(d.tables)
    removed = sum(heights) - d.sum_bits
    assert removed / 1.5 <= make_plan(heights).sites <= removed / 1.38
