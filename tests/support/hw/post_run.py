# SPDX-License-Identifier: Apache-2.0
"""Runs POST instructions on the unit, and notes what it did and when."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from amaranth.hdl import Value
from amaranth.sim import Simulator

from lutvar.contract.sections import SECTIONS, section_heads
from lutvar.contract.widths import drain_latency
from lutvar.hw.post.unit import PostUnit
from support.hw.axi_memory import AxiMemory, serve
from support.hw.masters import first_report, open_windows
from support.hw.post import Case, Program
from support.hw.verilated_unit import UnitSimulator


@dataclass
class Result:
    """What the harness saw. Cycles from the end of reset."""

    memory: AxiMemory
    done: list[int] = field(default_factory=list)
    taken: list[int] = field(default_factory=list)
    drains: list[int] = field(default_factory=list)
    error: str = ""
    error_address: int = 0


def run_program(
    library: Path | None,
    program: Program,
    *,
    memory: AxiMemory | None = None,
    pause: float = 0.0,
    limit: int = 20_000,
    wait_each: bool = False,
    stop_after: int | None = None,
) -> Result:
    """Offer all instructions, wait for the last `done`.

    Args:
        library: the Verilated unit; None for Amaranth's simulator.
        pause: probability of a cycle without an instruction offered.
        wait_each: an instruction is offered when the last one is complete.
        stop_after: cycles until `stop`; then only `idle` is waited for.
    """
    config = program.config
    unit = PostUnit(config)
    result = Result(memory or AxiMemory())
    for at, content in program.before.items():
        result.memory.write(at, content)
    rng = random.Random(3)
    order: list[Case] = []  # cases whose columns are drained now

    async def commands(ctx: Any) -> None:
        open_windows(ctx, unit)
        payload = Value.cast(unit.command.payload)
        for number, case in enumerate(program.cases):
            while rng.random() < pause or (wait_each and len(result.done) < number):
                await ctx.tick()
            ctx.set(payload, program.payload(case))
            ctx.set(unit.command.valid, 1)
            order.append(case)
            while True:
                _, _, ready = await ctx.tick().sample(unit.command.ready)
                if ready:
                    break
            ctx.set(unit.command.valid, 0)
        for _ in range(limit):
            if len(result.done) == len(program.cases):
                break
            await ctx.tick()
        else:
            raise AssertionError(f"{len(result.done)} of {len(program.cases)} were done")
        await ctx.tick().repeat(5)
        assert not ctx.get(unit.busy) and ctx.get(unit.idle)
        result.error, result.error_address = first_report(ctx, unit.reports)

    async def watch(ctx: Any) -> None:
        cycle = 0
        async for _, _, done, valid, ready in ctx.tick().sample(
            unit.done, unit.command.valid, unit.command.ready
        ):
            if done:
                result.done.append(cycle)
            if valid and ready:
                result.taken.append(cycle)
            cycle += 1

    async def matrix(ctx: Any) -> None:
        drain, cycle = unit.drain, 0
        line: list[int | None] = [None] * drain_latency(config)
        number = pair = 0
        # Values are set after an edge, so they are there one cycle later than they are computed.
        async for _, _, valid, bank, group, at in ctx.tick().sample(
            drain.valid, drain.bank, drain.row_group, drain.column
        ):
            value = rng.getrandbits(1024)
            if valid:
                result.drains.append(cycle)
                while not program.cases[number].y.size:
                    number += 1
                case = program.cases[number]
                seen = (bank, group, at)
                o = case.operands
                # Blocks of 128 columns belong to the sections in turn.
                count = SECTIONS[o["sections"]]
                block, within = divmod(pair, 64)
                head = section_heads(config.row_groups, count)[block % count]
                place = block // count * 64 + within
                assert seen == (o["acc_bank"], head + o["row_group"], place), seen
                columns = case.y[:, 2 * pair : 2 * pair + 2].T
                value = int.from_bytes(np.ascontiguousarray(columns).tobytes(), "little")
                pair += 1
                if 2 * pair == case.y.shape[1]:
                    number, pair = number + 1, 0
            line.append(value)
            line.pop(0)
            if line[0] is not None:
                ctx.set(Value.cast(unit.drained), line[0])
            cycle += 1

    async def stop(ctx: Any) -> None:
        assert stop_after is not None
        await ctx.tick().repeat(stop_after)
        ctx.set(unit.stop, 1)
        await ctx.tick().repeat(3)
        for _ in range(limit):
            if ctx.get(unit.idle):
                break
            await ctx.tick()
        else:
            raise AssertionError("never quiet")
        await ctx.tick().repeat(50)
        assert ctx.get(unit.idle)

    simulator: Any = Simulator(unit) if library is None else UnitSimulator(unit, library)
    simulator.add_clock(1e-6)
    simulator.add_testbench(commands, background=stop_after is not None)
    if stop_after is not None:
        simulator.add_testbench(stop)
    simulator.add_testbench(watch, background=True)
    simulator.add_testbench(matrix, background=True)
    serve(simulator, result.memory, [unit.read], [unit.write])
    simulator.run()
    if library is not None:
        simulator.close()
    return result
