# SPDX-License-Identifier: Apache-2.0
"""Answers that are not as asked for: beats and responses of nobody, RLAST in the wrong place."""

from typing import Any

import pytest
from amaranth.sim import Simulator

from lutvar.hw.axi.reader import BurstReader
from lutvar.hw.axi.writer import BurstWriter
from support.hw.masters import first_report, open_windows

ADDRESS, BEATS = 0x4_0000_1300, 4
SLVERR = 2


async def _ask(ctx: Any, dut: Any) -> None:
    ctx.set(dut.request.payload.address, ADDRESS)
    ctx.set(dut.request.payload.beats, BEATS)
    ctx.set(dut.request.valid, 1)
    await ctx.tick().until(dut.request.ready)
    ctx.set(dut.request.valid, 0)


async def _beat(ctx: Any, dut: BurstReader, data: int, last: int, resp: int = 0) -> None:
    """One beat, and a pause behind it."""
    axi = dut.memory
    for signal, value in ((axi.rdata, data), (axi.rlast, last), (axi.rresp, resp)):
        ctx.set(signal, value)
    ctx.set(axi.rvalid, 1)
    await ctx.tick()
    ctx.set(axi.rvalid, 0)
    await ctx.tick()


def _run(dut: Any, *testbenches: Any, background: Any) -> None:
    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    for testbench in testbenches:
        simulator.add_testbench(testbench)
    simulator.add_testbench(background, background=True)
    simulator.run()


def _watch(dut: Any, counts: dict[str, int], values: list[int]) -> Any:
    """Counts dropped answers and, of a reader, collects what it delivers."""

    async def watch(ctx: Any) -> None:
        reader = isinstance(dut, BurstReader)
        if reader:
            ctx.set(dut.data.ready, 1)
        seen = (dut.data.valid, dut.data.payload) if reader else (dut.responses, dut.accepted)
        async for _, _, dropped, valid, value in ctx.tick().sample(dut.report.unsolicited, *seen):
            counts["dropped"] += dropped
            if valid:
                values.append(value)

    return watch


def test_reader_drops_beats_that_nobody_asked_for() -> None:
    """Before a request, while its address is not taken, and behind its last beat."""
    dut, counts, values = BurstReader(32), {"dropped": 0}, []

    async def testbench(ctx: Any) -> None:
        open_windows(ctx, dut)
        for last in (0, 1, 1, 0):
            await _beat(ctx, dut, 0xBAD, last, SLVERR)
        await _ask(ctx, dut)
        await ctx.tick().until(dut.memory.arvalid)
        for last in (1, 0):
            await _beat(ctx, dut, 0xBAD, last, SLVERR)
        ctx.set(dut.memory.arready, 1)
        await ctx.tick()
        ctx.set(dut.memory.arready, 0)
        for number in range(BEATS):
            await _beat(ctx, dut, 100 + number, number == BEATS - 1)
        await _beat(ctx, dut, 0xBAD, 1, SLVERR)
        await ctx.tick().repeat(8)
        assert ctx.get(dut.idle) and first_report(ctx, [dut.report]) == ("", 0)
        # The next burst is right as well.
        await _ask(ctx, dut)
        ctx.set(dut.memory.arready, 1)
        await ctx.tick().until(dut.memory.arvalid)
        for number in range(BEATS):
            await _beat(ctx, dut, 200 + number, number == BEATS - 1)
        await ctx.tick().repeat(8)
        assert ctx.get(dut.idle) and first_report(ctx, [dut.report]) == ("", 0)

    _run(dut, testbench, background=_watch(dut, counts, values))
    assert values == [*range(100, 100 + BEATS), *range(200, 200 + BEATS)]
    assert counts["dropped"] == 7


@pytest.mark.parametrize("beats", [1, BEATS - 1, BEATS + 1, BEATS + 40])
def test_reader_reports_rlast_in_the_wrong_place(beats: int) -> None:
    """The burst ends where RLAST says so; what comes after the fault is not delivered."""
    dut, counts, values = BurstReader(32), {"dropped": 0}, []

    async def testbench(ctx: Any) -> None:
        open_windows(ctx, dut)
        ctx.set(dut.memory.arready, 1)
        await _ask(ctx, dut)
        await ctx.tick().until(dut.memory.arvalid)
        for number in range(beats):
            assert not ctx.get(dut.idle)
            await _beat(ctx, dut, number, number == beats - 1)
            wrong = number == min(beats, BEATS) - 1
            assert (
                first_report(ctx, [dut.report])[0] == ("last" if wrong else "") or number >= BEATS
            )
        await ctx.tick().repeat(4)
        assert ctx.get(dut.idle)
        assert first_report(ctx, [dut.report]) == ("last", ADDRESS)
        await _ask(ctx, dut)
        await ctx.tick().until(dut.memory.arvalid)
        for number in range(BEATS):
            await _beat(ctx, dut, 0xBAD, number == BEATS - 1)
        await ctx.tick().repeat(8)

    _run(dut, testbench, background=_watch(dut, counts, values))
    assert values == list(range(min(beats, BEATS)))
    assert not counts["dropped"]


def test_writer_drops_responses_that_nobody_waits_for() -> None:
    """Before a request, before its address or its last beat is taken, and behind its response."""
    dut, counts, values = BurstWriter(32), {"dropped": 0}, []

    async def respond(ctx: Any, resp: int) -> None:
        ctx.set(dut.memory.bresp, resp)
        ctx.set(dut.memory.bvalid, 1)
        await ctx.tick()
        ctx.set(dut.memory.bvalid, 0)
        await ctx.tick()

    async def testbench(ctx: Any) -> None:
        open_windows(ctx, dut)
        axi = dut.memory
        await respond(ctx, SLVERR)
        for address_first in (True, False):
            await _ask(ctx, dut)
            ctx.set(dut.data.valid, 1)
            await ctx.tick().repeat(BEATS)
            ctx.set(dut.data.valid, 0)
            await ctx.tick().repeat(10)
            await respond(ctx, SLVERR)
            first, second = (axi.awready, axi.wready)[:: 1 if address_first else -1]
            for ready in (first, second):
                await respond(ctx, SLVERR)
                ctx.set(ready, 1)
                await ctx.tick().repeat(1 if ready is axi.awready else BEATS)
                ctx.set(ready, 0)
            assert not ctx.get(dut.idle)
            await respond(ctx, 0)
            await respond(ctx, SLVERR)
            await ctx.tick().repeat(4)
            assert ctx.get(dut.idle) and not ctx.get(dut.pending_requests)
            assert first_report(ctx, [dut.report]) == ("", 0)

    _run(dut, testbench, background=_watch(dut, counts, values))
    assert len(values) == 2
    assert counts["dropped"] == 1 + 2 * 4
