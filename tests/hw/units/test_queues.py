# SPDX-License-Identifier: Apache-2.0
"""Queues and their levels, against the library's queue and plain counting."""

import random
from typing import Any

import pytest
from amaranth.hdl import Module, Signal
from amaranth.lib import fifo
from amaranth.sim import Simulator

from lutvar.hw.units.count import Level
from lutvar.hw.units.memory import Fifo

CYCLES = 1500


def _phases(rng: random.Random) -> tuple[float, float]:
    """Probabilities of a push and a pop for the next cycles: filling, emptying, both at once."""
    return rng.choice([(1.0, 1.0), (0.9, 0.2), (0.2, 0.9), (0.5, 0.5), (1.0, 0.0), (0.0, 1.0)])


@pytest.mark.parametrize("depth", [2, 3, 4, 5, 8, 16, 33])
def test_fifo_does_what_the_library_does(depth: int) -> None:
    m = Module()
    m.submodules.dut = dut = Fifo(8, depth)
    m.submodules.other = other = fifo.SyncFIFOBuffered(width=8, depth=depth)
    m.d.comb += [
        other.w_data.eq(dut.i.payload),
        other.w_en.eq(dut.i.valid),
        other.r_en.eq(dut.o.ready),
    ]
    rng = random.Random(depth)
    seen = {"full": 0, "empty": 0}

    async def testbench(ctx: Any) -> None:
        push = pop = 0.0
        for cycle in range(CYCLES):
            if cycle % 40 == 0:
                push, pop = _phases(rng)
            ctx.set(dut.i.valid, rng.random() < push)
            ctx.set(dut.o.ready, rng.random() < pop)
            ctx.set(dut.i.payload, rng.randrange(256))
            assert ctx.get(dut.i.ready) == ctx.get(other.w_rdy), cycle
            assert ctx.get(dut.o.valid) == ctx.get(other.r_rdy), cycle
            if ctx.get(dut.o.valid):
                assert ctx.get(dut.o.payload) == ctx.get(other.r_data), cycle
            seen["full"] += not ctx.get(dut.i.ready)
            seen["empty"] += not ctx.get(dut.o.valid)
            await ctx.tick()

    sim = Simulator(m)
    sim.add_clock(1e-6)
    sim.add_testbench(testbench)
    sim.run()
    assert min(seen.values()) > 20, seen


@pytest.mark.parametrize(("most", "init"), [(1, 0), (1, 1), (2, 0), (4, 0), (7, 3), (8, 8), (9, 0)])
def test_level_counts_and_answers(most: int, init: int) -> None:
    m = Module()
    up, down = Signal(), Signal()
    level = Level(m, "level", most, up, down, init=init)
    rng = random.Random(most)
    reached = set()

    async def testbench(ctx: Any) -> None:
        count, more, less = init, 0.0, 0.0
        for cycle in range(CYCLES):
            if cycle % 40 == 0:
                more, less = _phases(rng)
            assert ctx.get(level.value) == count
            assert ctx.get(level.some) == (count != 0)
            assert ctx.get(level.room) == (count != most)
            reached.add(count)
            leave, enter = rng.random() < less, rng.random() < more
            leave &= count > 0 or enter
            enter &= count < most or leave
            ctx.set(up, enter)
            ctx.set(down, leave)
            count += enter - leave
            await ctx.tick()

    sim = Simulator(m)
    sim.add_clock(1e-6)
    sim.add_testbench(testbench)
    sim.run()
    assert reached == set(range(most + 1))
