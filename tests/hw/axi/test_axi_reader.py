# SPDX-License-Identifier: Apache-2.0
"""Burst reader against a memory with latency, stalls and errors."""

import gc
import random
from typing import Any

import pytest
from amaranth.sim import Simulator

from lutvar.hw.axi.reader import BurstReader
from lutvar.hw.axi.writer import BurstWriter
from support.hw.axi_memory import AxiMemory, serve
from support.hw.bursts import LIMIT, fill, random_transfers, request
from support.hw.masters import first_report, open_windows


def _read(
    dut: BurstReader, memory: AxiMemory, transfers: list[tuple[int, int]], count: int,
    slow: float = 0.0, seed: int = 0,
) -> tuple[list[int], list[int]]:  # fmt: skip
    """Values and the cycles in which they came."""
    values, cycles = [], []
    rng = random.Random(f"sink {seed}")

    async def source(ctx: Any) -> None:
        open_windows(ctx, dut)
        for address, beats in transfers:
            await request(ctx, dut.request, address, beats)

    async def sink(ctx: Any) -> None:
        for cycle in range(LIMIT):
            ready = rng.random() >= slow
            ctx.set(dut.data.ready, ready)
            _, _, valid, value, rready = await ctx.tick().sample(
                dut.data.valid, dut.data.payload, dut.memory.rready
            )
            assert rready
            if valid and ready:
                values.append(value)
                cycles.append(cycle)
            if len(values) == count:
                break
        ctx.set(dut.data.ready, 0)
        await ctx.tick().repeat(6)
        if len(transfers) and count == sum(b for _, b in transfers):
            assert ctx.get(dut.idle)

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    serve(simulator, memory, [dut.memory], [])
    simulator.add_testbench(source)
    simulator.add_testbench(sink)
    simulator.run()
    return values, cycles


@pytest.mark.parametrize(
    ("latency", "jitter", "stall", "slow"),
    [(1, 0, 0.0, 0.0), (20, 30, 0.3, 0.0), (5, 3, 0.1, 0.5), (40, 0, 0.0, 0.9)],
)
def test_reader_delivers_beats_in_order(
    latency: int, jitter: int, stall: float, slow: float
) -> None:
    rng = random.Random(f"{latency} {slow}")
    memory = AxiMemory(seed=latency, latency=latency, jitter=jitter, stall=stall)
    transfers = random_transfers(rng, 16, 100)
    expected = fill(memory, transfers, rng)
    dut = BurstReader(32)
    values, _ = _read(dut, memory, transfers, len(expected), slow)
    assert values == expected
    for address, beats in transfers:  # nothing was read that nobody asked for
        inside = [b for a, b in memory.read_bursts if a >> 16 == address >> 16]
        assert sum(inside) == beats


def test_reader_splits_at_windows_of_one_kibibyte() -> None:
    memory = AxiMemory()
    _read(BurstReader(64), memory, [(0xFC0, 40)], 40)
    assert memory.read_bursts == [(0xFC0, 1), (0x1000, 16), (0x1400, 16), (0x1800, 7)]


@pytest.mark.parametrize("latency", [2, 40])
def test_reader_sustains_one_beat_in_each_cycle(latency: int) -> None:
    memory = AxiMemory(latency=latency)
    values, cycles = _read(BurstReader(64), memory, [(0x40, 150), (0x10000, 170)], 320)
    assert len(values) == 320
    assert cycles[-1] - cycles[0] == 319
    assert cycles[0] <= latency + 10


def test_reader_takes_single_beats_at_full_rate() -> None:
    memory = AxiMemory(latency=3)
    transfers = [(0x1000 * i, 1) for i in range(100)]
    expected = fill(memory, transfers, random.Random(3))
    values, cycles = _read(BurstReader(64), memory, transfers, 100)
    assert values == expected and cycles[-1] - cycles[0] == 99


def test_reader_reports_the_first_bad_burst_and_goes_on() -> None:
    memory = AxiMemory(latency=3, bad=frozenset({0x1440, 0x2000}))
    transfers = [(0x1000, 40), (0x2000, 1)]
    expected = fill(memory, transfers, random.Random(1))
    dut = BurstReader(32)
    seen = []

    async def observe(ctx: Any) -> None:
        async for _ in ctx.tick():
            kind, address = first_report(ctx, [dut.report])
            if kind:
                seen.append((kind, address))

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    serve(simulator, memory, [dut.memory], [])
    simulator.add_testbench(observe, background=True)
    values = []

    async def testbench(ctx: Any) -> None:
        open_windows(ctx, dut)
        ctx.set(dut.data.ready, 1)
        for address, beats in transfers:
            await request(ctx, dut.request, address, beats)

    async def sink(ctx: Any) -> None:
        while len(values) < 41:
            _, _, valid, value = await ctx.tick().sample(dut.data.valid, dut.data.payload)
            if valid:
                values.append(value)

    simulator.add_testbench(testbench)
    simulator.add_testbench(sink)
    simulator.run()
    assert values == expected
    assert set(seen) == {("response", 0x1400)}


def test_reader_stops_and_becomes_quiet_without_a_consumer() -> None:
    memory = AxiMemory(latency=25)
    dut = BurstReader(64)

    async def testbench(ctx: Any) -> None:
        open_windows(ctx, dut)
        await request(ctx, dut.request, 0, 1000)
        await ctx.tick().repeat(12)
        ctx.set(dut.stop, 1)
        await ctx.tick().repeat(2)
        issued = len(memory.read_bursts)
        assert issued and not ctx.get(dut.idle)
        for _ in range(200):
            await ctx.tick()
            if ctx.get(dut.idle):
                break
        assert ctx.get(dut.idle) and memory.outstanding == 0
        await ctx.tick().repeat(50)
        assert len(memory.read_bursts) <= issued + 1 and ctx.get(dut.idle)

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    serve(simulator, memory, [dut.memory], [])
    simulator.add_testbench(testbench)
    simulator.run()


@pytest.mark.filterwarnings("ignore::amaranth.hdl.UnusedElaboratable")
@pytest.mark.parametrize("unit", [BurstReader, BurstWriter])
@pytest.mark.parametrize("depth", [16, 48])
def test_depth_is_checked(unit: Any, depth: int) -> None:
    with pytest.raises(ValueError, match="power of two"):
        unit(depth)
    gc.collect()  # what was refused must not be reported as unused later
