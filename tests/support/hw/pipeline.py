# SPDX-License-Identifier: Apache-2.0
"""Drives a unit of fixed latency with one input set in each cycle, in Amaranth's simulator."""

from collections.abc import Mapping, Sequence
from typing import Any

from amaranth.sim import Simulator


def run_pipeline(
    unit: Any, inputs: Sequence[Mapping[str, int]], outputs: Sequence[str], latency: int
) -> list[tuple[int, ...]]:
    """Feed the inputs back to back; the outputs that belong to each of them, `latency` later."""
    results: list[tuple[int, ...]] = []
    ports = [(name, getattr(unit, name)) for name in inputs[0]]
    watched = [getattr(unit, name) for name in outputs]

    async def testbench(ctx: Any) -> None:
        for cycle in range(len(inputs) + latency):
            if cycle < len(inputs):
                for name, port in ports:
                    ctx.set(port, inputs[cycle][name])
            if cycle >= latency:
                results.append(tuple(ctx.get(signal) for signal in watched))
            await ctx.tick()

    simulator = Simulator(unit)
    simulator.add_clock(1e-6)
    simulator.add_testbench(testbench)
    simulator.run()
    return results
