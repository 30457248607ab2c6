# SPDX-License-Identifier: Apache-2.0
"""Windows of memory: the check against plain integers, and that nothing outside is begun."""

import random
from collections.abc import Sequence
from typing import Any

import pytest
from amaranth.sim import Simulator

from lutvar.hw.axi.reader import BurstReader
from lutvar.hw.axi.windows import WindowCheck
from lutvar.hw.axi.writer import BurstWriter
from lutvar.hw.links import BEAT_ADDRESS, WINDOWS
from support.hw.axi_memory import AxiMemory, serve
from support.hw.masters import first_report, window_bits

TOP = 1 << BEAT_ADDRESS
MOST = (1 << 20) - 1  #: beats of a transfer
Windows = Sequence[tuple[int, int]]


def _inside(windows: Windows, address: int, beats: int) -> bool:
    return any(base <= address and address + beats <= limit for base, limit in windows)


def _cases(rng: random.Random) -> list[tuple[Windows, int, int]]:
    """Windows of all kinds, and transfers that touch their edges or wrap around."""
    cases: list[tuple[Windows, int, int]] = []
    for _ in range(60):
        windows: list[tuple[int, int]] = []
        for _ in range(WINDOWS):
            base = rng.choice([0, 1, TOP - 1, TOP - 20, rng.randrange(TOP), rng.randrange(4000)])
            size = rng.choice([0, 1, 16, rng.randrange(1 << 21), rng.randrange(TOP)])
            limit = rng.choice([min(base + size, TOP - 1), max(base - 1, 0), 0])
            windows.append((base, limit))
        edges = [edge for window in windows for edge in window]
        for _ in range(25):
            beats = rng.choice([1, 2, 16, MOST, rng.randint(1, MOST)])
            near = rng.choice(edges) + rng.choice([0, 0, -1, 1, -beats, -beats - 1, 1 - beats])
            cases.append((tuple(windows), near % TOP, beats))
    return cases


def test_the_check_is_that_of_integers() -> None:
    cases = _cases(random.Random(5))
    expected = [_inside(*case) for case in cases]
    assert 100 < sum(expected) < len(cases) - 100
    # What an adder that wraps around would let pass is among the cases.
    wrapped = [
        any(base <= at and (at + n) % TOP <= limit for base, limit in windows)
        for windows, at, n in cases
    ]
    assert wrapped != expected
    dut = WindowCheck()

    async def testbench(ctx: Any) -> None:
        shown = None
        for (windows, address, beats), inside in zip(cases, expected, strict=True):
            if windows != shown:
                ctx.set(dut.windows.as_value(), window_bits(windows))
                shown = windows
                await ctx.tick()
            # The low six bits are no part of a beat's address.
            ctx.set(dut.transfer.address, address << 6 | 0x3F)
            ctx.set(dut.transfer.beats, beats)
            ctx.set(dut.load, 1)
            await ctx.tick()
            assert ctx.get(dut.inside) == inside, (windows, address, beats)
            ctx.set(dut.load, 0)
            ctx.set(dut.transfer.address, 0)
            await ctx.tick()
            assert ctx.get(dut.inside) == inside, "the answer changed without `load`"

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(testbench)
    simulator.run()


#: (beats from the start of the window of 100 beats, length), and whether it may be issued.
_TRANSFERS = [
    (0, 100, True), (0, 101, False), (99, 1, True), (100, 1, False), (-1, 1, False),
    (-1, 50, False), (60, 40, True), (60, 41, False),
]  # fmt: skip
_BASE = 0x1237  #: beats; within an aligned kilobyte, so that bursts do not start at the window


@pytest.mark.parametrize("write", [False, True])
@pytest.mark.parametrize("bad", [t[:2] for t in _TRANSFERS if not t[2]])
def test_nothing_outside_is_begun(write: bool, bad: tuple[int, int]) -> None:
    """Transfers before are carried out, the one outside and all after it are not, up to a reset."""
    dut: Any = BurstWriter(64) if write else BurstReader(64)
    memory = AxiMemory(latency=5, jitter=5, stall=0.2)
    right = [t[:2] for t in _TRANSFERS if t[2]]
    offered = [*right, bad, right[0]]

    async def requests(ctx: Any) -> None:
        ctx.set(dut.windows.as_value(), window_bits([(0, 0), (_BASE, _BASE + 100)]))
        await ctx.tick()
        for at, beats in offered:
            ctx.set(dut.request.payload.address, (_BASE + at) << 6)
            ctx.set(dut.request.payload.beats, beats)
            ctx.set(dut.request.valid, 1)
            await ctx.tick().until(dut.request.ready)
        ctx.set(dut.request.valid, 0)

    async def beats(ctx: Any) -> None:
        ctx.set(dut.data.valid if write else dut.data.ready, 1)
        await ctx.tick().repeat(1500)
        bursts = memory.write_bursts if write else memory.read_bursts
        assert sum(length for _, length in bursts) == sum(length for _, length in right)
        for address, length in bursts:
            assert _inside([(_BASE, _BASE + 100)], address >> 6, length)
        assert first_report(ctx, [dut.report]) == ("outside", (_BASE + bad[0]) << 6)
        assert ctx.get(dut.idle) and not memory.outstanding

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    serve(simulator, memory, [] if write else [dut.memory], [dut.memory] if write else [])
    simulator.add_testbench(requests, background=True)
    simulator.add_testbench(beats)
    simulator.run()


@pytest.mark.parametrize("unit", [BurstReader, BurstWriter])
def test_windows_are_empty_after_reset(unit: Any) -> None:
    dut = unit(32)

    async def testbench(ctx: Any) -> None:
        ctx.set(dut.request.payload.beats, 1)
        ctx.set(dut.request.valid, 1)
        valid = dut.memory.arvalid if unit is BurstReader else dut.memory.awvalid
        if unit is BurstWriter:
            ctx.set(dut.data.valid, 1)
        for _ in range(30):
            _, _, begun = await ctx.tick().sample(valid)
            assert not begun
        assert first_report(ctx, [dut.report]) == ("outside", 0)

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(testbench)
    simulator.run()
