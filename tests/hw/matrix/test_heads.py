# SPDX-License-Identifier: Apache-2.0
"""Weights on their way to the heads of sections."""

from __future__ import annotations

import random
from typing import Any

import pytest
from amaranth.hdl import Module, Signal
from amaranth.sim import Simulator

from lutvar.hw.matrix.heads import wait


@pytest.mark.parametrize("cycles", [1, 2, 3, 4, 5, 8, 9, 16, 17])
def test_values_come_after_as_many_cycles(cycles: int) -> None:
    """Shift registers, memories whose size the way fills, and others."""
    m, source, result = Module(), Signal(9), Signal(9)
    m.d.comb += result.eq(wait(m, source, cycles, "way"))
    rng = random.Random(cycles)
    values = [rng.getrandbits(9) for _ in range(80)]

    async def testbench(ctx: Any) -> None:
        for number, value in enumerate(values):
            ctx.set(source, value)
            if number >= cycles:
                assert ctx.get(result) == values[number - cycles]
            await ctx.tick()

    simulator = Simulator(m)
    simulator.add_clock(1e-6)
    simulator.add_testbench(testbench)
    simulator.run()
