# SPDX-License-Identifier: Apache-2.0
"""Whole jobs against the golden model: every layer kind, pauses, queues, status and counters."""

import cocotb

from lutvar.contract.registers import BY_NAME

from .cases import make_case, run_case
from .common import Bench, pauses

DONE = 1 << next(f.low for f in BY_NAME["ISR"].fields if f.name == "done")


@cocotb.test()
@cocotb.parametrize(site=["qkv", "proj", "fc2"], dump=[False, True])
async def job_matches_golden(dut, site: str, dump: bool) -> None:
    """Rotated, plain and dual layers, multiplied and dumped."""
    bench = await Bench.start(dut)
    await run_case(bench, make_case(bench, 11, vectors=2, groups=2, site=site, dump=dump))
    assert await bench.read("ERROR") == 0


@cocotb.test()
@cocotb.parametrize(paused=["act", "wgt", "out", "all"])
async def pauses_do_not_change_results(dut, paused: str) -> None:
    """Random idle cycles and back-pressure on one stream or on all."""
    bench = await Bench.start(dut)
    for index, name in enumerate(("act", "wgt", "out")):
        if paused in (name, "all"):
            getattr(bench, name).set_pause_generator(pauses(0.6, index))
    await run_case(bench, make_case(bench, 21, vectors=3, groups=2, site="qkv"))
    await run_case(bench, make_case(bench, 22, vectors=2, groups=1, site="fc2", dump=True))
    assert await bench.read("ERROR") == 0


@cocotb.test()
async def jobs_back_to_back(dut) -> None:
    """Jobs of different sizes and kinds, queued while others run, no reset between."""
    bench = await Bench.start(dut)
    most = bench.hardware.max_groups
    cases = [
        make_case(bench, 31, vectors=1, groups=1, tiles=1, site="proj"),
        make_case(bench, 32, vectors=bench.hardware.row_block + 1, groups=1, site="qkv"),
        make_case(bench, 33, vectors=1, groups=most, tiles=2, site="fc2"),
        make_case(bench, 34, vectors=2, groups=1, site="fc2", dump=True),
        make_case(bench, 35, vectors=4, groups=2, tiles=1, site="proj"),
    ]

    async def queue() -> None:
        for case in cases:
            await bench.feed(case.act, case.wgt)
        for case in cases:
            await bench.start_job(case.arguments)

    cocotb.start_soon(queue())
    for case in cases:
        case.check(bench, await bench.collect())
    await bench.wait_for("CTRL", "idle")
    assert await bench.read("JOBS") == len(cases)
    for name, packets in (
        ("BEATS_ACT", [c.act for c in cases]),
        ("BEATS_WGT", [c.wgt for c in cases]),
    ):
        assert await bench.read(name) == sum(map(len, packets)) // bench.size, name
    assert await bench.read("BEATS_OUT") == sum(c.out_bytes for c in cases) // bench.size


@cocotb.test()
async def status_and_interrupt(dut) -> None:
    """CTRL, ISR, the interrupt line and the counters over one job."""
    bench = await Bench.start(dut)
    case = make_case(bench, 41, vectors=2, groups=2, site="proj")
    await bench.write("GIE", 1)
    await bench.write("IER", DONE)
    assert await bench.field("CTRL", "idle")
    await bench.start_job(case.arguments)
    assert not await bench.field("CTRL", "idle") and not await bench.field("CTRL", "done")
    assert not dut.interrupt.value
    await bench.feed(case.act, case.wgt)
    case.check(bench, await bench.collect())
    await bench.wait_for("CTRL", "idle")
    assert dut.interrupt.value and await bench.read("ISR") == DONE
    await bench.write("ISR", DONE)
    await bench.cycles(2)
    assert not dut.interrupt.value and await bench.read("ISR") == 0
    # `idle` was polled until it rose, and every poll clears `done`: only the last may have seen it.
    assert not await bench.field("CTRL", "done")

    low, high = await bench.read("CYCLES_LO"), await bench.read("CYCLES_HI")
    issued = await bench.read("BUSY")
    stalls = [await bench.read(f"STALL_{why}") for why in ("ACT", "WGT", "OUT", "GAP")]
    assert high == 0 and issued == case.rows // bench.hardware.token_rows * case.groups
    assert issued + sum(stalls) <= low, "more issues and stalls than cycles"
    assert await bench.read("CYCLES_LO") == low, "the cycle counter runs while the core is idle"
    # Done is sticky until it is read, and a second job sets it again.
    await bench.start_job(case.arguments)
    await bench.feed(case.act, case.wgt)
    case.check(bench, await bench.collect())
    await bench.wait_for("ISR", "done")
    assert await bench.field("CTRL", "done")
    assert not await bench.field("CTRL", "done")
    assert not await bench.read("ISR") & ~DONE
