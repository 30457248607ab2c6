# SPDX-License-Identifier: Apache-2.0
"""Burst writer against a memory with latency, stalls and errors."""

import random
from typing import Any

import pytest
from amaranth.sim import Simulator

from lutvar.hw.axi.writer import BurstWriter
from support.hw.axi_memory import BEAT_BYTES, AxiMemory, serve
from support.hw.bursts import LIMIT, offer, random_transfers, request
from support.hw.masters import first_report, open_windows


def _write(
    dut: BurstWriter, memory: AxiMemory, transfers: list[tuple[int, int]], values: list[int],
    idle: float, seed: int = 0,
) -> list[int]:  # fmt: skip
    """Cycles of W transfers."""
    rng = random.Random(f"source {seed}")
    cycles: list[int] = []
    counts = {"accepted": 0, "responses": 0}

    async def requests(ctx: Any) -> None:
        open_windows(ctx, dut)
        for address, beats in transfers:
            while rng.random() < idle:
                await ctx.tick()
            await request(ctx, dut.request, address, beats)

    async def beats(ctx: Any) -> None:
        for value in values:
            while rng.random() < idle:
                await ctx.tick()
            await offer(ctx, dut.data, value, lambda v: ctx.set(dut.data.payload, v))

    async def observe(ctx: Any) -> None:
        for cycle in range(LIMIT):
            _, _, accepted, responses, pending, wv, wr = await ctx.tick().sample(
                dut.accepted, dut.responses, dut.pending_requests,
                dut.memory.wvalid, dut.memory.wready,
            )  # fmt: skip
            assert pending == counts["accepted"] - counts["responses"]
            counts["accepted"] += accepted
            counts["responses"] += responses
            if wv and wr:
                cycles.append(cycle)
            if counts["responses"] == len(transfers):
                break
        else:
            raise AssertionError(f"{counts} of {len(transfers)}")
        assert len(cycles) == len(values)
        await ctx.tick().repeat(3)
        assert ctx.get(dut.idle) and not ctx.get(dut.pending_requests)

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    serve(simulator, memory, [], [dut.memory])
    for testbench in (requests, beats, observe):
        simulator.add_testbench(testbench)
    simulator.run()
    return cycles


@pytest.mark.parametrize(
    ("latency", "jitter", "stall", "idle"),
    [(1, 0, 0.0, 0.0), (20, 30, 0.3, 0.0), (5, 3, 0.1, 0.5), (90, 0, 0.0, 0.0)],
)
def test_writer_writes_every_beat_once(
    latency: int, jitter: int, stall: float, idle: float
) -> None:
    rng = random.Random(f"{latency} {idle}")
    memory = AxiMemory(seed=latency, latency=latency, jitter=jitter, stall=stall)
    transfers = random_transfers(rng, 16, 60)
    expected: dict[int, int] = {}
    values = []
    for address, beats in transfers:
        for i in range(beats):
            values.append(rng.getrandbits(512))
            expected[address + i * BEAT_BYTES] = values[-1]
    _write(BurstWriter(32), memory, transfers, values, idle)
    assert memory.beats == expected


@pytest.mark.parametrize("single", [False, True])
def test_writer_sustains_one_beat_in_each_cycle(single: bool) -> None:
    memory = AxiMemory(latency=3)
    transfers = [(0x1000 * i, 1) for i in range(200)] if single else [(0x40, 95), (0x9000, 105)]
    cycles = _write(BurstWriter(64), memory, transfers, list(range(200)), 0.0)
    # Short bursts come in each cycle while enough beats wait, else in every second.
    start, end = (100, 150) if single else (40, 199)
    assert cycles[end] - cycles[start] == end - start


def test_writer_reports_errors_and_counts_the_response() -> None:
    memory = AxiMemory(latency=3, bad=frozenset({0x1440}))
    dut = BurstWriter(32)
    _write(dut, memory, [(0x1000, 40), (0x3000, 2)], list(range(42)), 0.0)
    assert memory.write_bursts[1] == (0x1400, 16)
    errors = []

    async def observe(ctx: Any) -> None:
        await ctx.tick().repeat(200)
        errors.append(first_report(ctx, [dut.report]))

    async def testbench(ctx: Any) -> None:
        open_windows(ctx, dut)
        await request(ctx, dut.request, 0x1000, 40)

    async def beats(ctx: Any) -> None:
        for value in range(40):
            await offer(ctx, dut.data, value, lambda v: ctx.set(dut.data.payload, v))

    dut = BurstWriter(32)
    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    serve(simulator, memory, [], [dut.memory])
    for process in (observe, testbench, beats):
        simulator.add_testbench(process)
    simulator.run()
    assert errors == [("response", 0x1400)]


def test_writer_stop_ends_what_was_started() -> None:
    memory = AxiMemory(latency=10, stall=0.2)
    dut = BurstWriter(64)

    async def testbench(ctx: Any) -> None:
        open_windows(ctx, dut)
        await request(ctx, dut.request, 0, 100)
        ctx.set(dut.data.valid, 1)  # never enough for the last burst
        await ctx.tick().repeat(40)
        ctx.set(dut.data.valid, 0)
        ctx.set(dut.stop, 1)
        await ctx.tick().repeat(2)
        assert not ctx.get(dut.idle)
        for _ in range(300):
            await ctx.tick()
            if ctx.get(dut.idle):
                break
        assert ctx.get(dut.idle) and memory.outstanding == 0
        started = len(memory.write_bursts)
        await ctx.tick().repeat(50)
        assert len(memory.write_bursts) == started and ctx.get(dut.idle)
        assert len(memory.beats) == sum(length for _, length in memory.write_bursts)

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    serve(simulator, memory, [], [dut.memory])
    simulator.add_testbench(testbench)
    simulator.run()
