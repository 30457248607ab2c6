# SPDX-License-Identifier: Apache-2.0
"""Burst reader and writer against a memory with latency, stalls and errors."""

import gc
import random
from typing import Any

import pytest
from amaranth.sim import Simulator

from lutvar.hw.axi.reader import BurstReader
from lutvar.hw.axi.writer import BurstWriter
from support.hw.axi_memory import BEAT_BYTES, AxiMemory, serve
from support.hw.masters import first_report, open_windows

LIMIT = 6000


def _transfers(rng: random.Random, count: int, largest: int) -> list[tuple[int, int]]:
    """Random (address, beats); windows of 4 KiB are crossed, some transfers are single beats."""
    found = []
    for number in range(count):
        beats = rng.choice([1, 1, 2, 8, 15, 16, 17, 33, rng.randint(1, largest)])
        # Apart from each other, so that writes do not overlap.
        address = (number << 16) + (rng.randrange(0, 200) * BEAT_BYTES) + (5 << 40)
        found.append((address, beats))
    return found


def _pack(address: int, beats: int) -> int:
    return address | beats << 64


async def _offer(ctx: Any, stream: Any, value: Any, set_value: Any) -> None:
    set_value(value)
    ctx.set(stream.valid, 1)
    for _ in range(LIMIT):
        _, _, ready = await ctx.tick().sample(stream.ready)
        if ready:
            break
    else:
        raise AssertionError("not taken")
    ctx.set(stream.valid, 0)


async def _request(ctx: Any, stream: Any, address: int, beats: int) -> None:
    def put(_value: Any) -> None:
        ctx.set(stream.payload.address, address)
        ctx.set(stream.payload.beats, beats)

    await _offer(ctx, stream, None, put)


def _fill(memory: AxiMemory, transfers: list[tuple[int, int]], rng: random.Random) -> list[int]:
    expected = []
    for address, beats in transfers:
        for i in range(beats):
            value = rng.getrandbits(512)
            memory.beats[address + i * BEAT_BYTES] = value
            expected.append(value)
    return expected


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
            await _request(ctx, dut.request, address, beats)

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
    transfers = _transfers(rng, 16, 100)
    expected = _fill(memory, transfers, rng)
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
    expected = _fill(memory, transfers, random.Random(3))
    values, cycles = _read(BurstReader(64), memory, transfers, 100)
    assert values == expected and cycles[-1] - cycles[0] == 99


def test_reader_reports_the_first_bad_burst_and_goes_on() -> None:
    memory = AxiMemory(latency=3, bad=frozenset({0x1440, 0x2000}))
    transfers = [(0x1000, 40), (0x2000, 1)]
    expected = _fill(memory, transfers, random.Random(1))
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
            await _request(ctx, dut.request, address, beats)

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
        await _request(ctx, dut.request, 0, 1000)
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
            await _request(ctx, dut.request, address, beats)

    async def beats(ctx: Any) -> None:
        for value in values:
            while rng.random() < idle:
                await ctx.tick()
            await _offer(ctx, dut.data, value, lambda v: ctx.set(dut.data.payload, v))

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
    transfers = _transfers(rng, 16, 60)
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
        await _request(ctx, dut.request, 0x1000, 40)

    async def beats(ctx: Any) -> None:
        for value in range(40):
            await _offer(ctx, dut.data, value, lambda v: ctx.set(dut.data.payload, v))

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
        await _request(ctx, dut.request, 0, 100)
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


@pytest.mark.filterwarnings("ignore::amaranth.hdl.UnusedElaboratable")
@pytest.mark.parametrize("unit", [BurstReader, BurstWriter])
@pytest.mark.parametrize("depth", [16, 48])
def test_depth_is_checked(unit: Any, depth: int) -> None:
    with pytest.raises(ValueError, match="power of two"):
        unit(depth)
    gc.collect()  # what was refused must not be reported as unused later
