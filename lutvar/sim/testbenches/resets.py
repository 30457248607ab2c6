# SPDX-License-Identifier: Apache-2.0
"""Resets of any length at any moment of a program; the next program must be right."""

from typing import Any

import cocotb

from lutvar.contract.register_map import BY_NAME
from lutvar.hw.accelerator.control import SETTLE_CYCLES

from .common import Testbench
from .units import UnitsCase, make_units_case

LENGTHS = (1, 2, 3, 4, 7)  #: cycles that ap_rst_n is low
MOMENTS = 12  #: of a program at which it is reset
LATEST = 400  #: cycles after the start of the last one


async def _restart(tb: Testbench, case: UnitsCase) -> None:
    """The state after a reset is that after power-up; a program is right."""
    for name in ("ERROR", "ISR", "GIE", "PROGRAMS", "CYCLES_LO", "SCRATCH", "BASE3_LO"):
        assert await tb.read(name) == 0, f"{name} is not 0 after a reset"
    assert await tb.read("CTRL") == BY_NAME["CTRL"].reset | 1 << 3
    await case.open(tb)
    await case.run(tb)


@cocotb.test()
@cocotb.parametrize(length=LENGTHS)
async def hard_reset(dut: Any, length: int) -> None:
    """ap_rst_n low for `length` cycles, at moments spread over a program."""
    tb = await Testbench.start(dut)
    case = make_units_case(tb.config, 91 + length)
    tb.memory.pauses = 0.1
    await case.open(tb)
    for number in range(MOMENTS):
        moment = 1 + LATEST * number // MOMENTS + tb.memory.rng.randrange(LATEST // MOMENTS)
        await tb.write("SCRATCH", ~number)
        await tb.start_program(case.raw)
        await tb.cycles(moment)
        await tb.reset(length)
        if number % 4 == 3:
            await _restart(tb, case)
        else:
            await case.open(tb)


@cocotb.test()
async def two_resets(dut: Any) -> None:
    """A second reset in each of the cycles in which the first one is still at work."""
    tb = await Testbench.start(dut)
    case = make_units_case(tb.config, 97)
    await case.open(tb)
    for distance in range(1, 25):
        await tb.start_program(case.raw)
        await tb.cycles(120)
        dut.ap_rst_n.value = 0
        await tb.cycles(1)
        dut.ap_rst_n.value = 1
        await tb.cycles(distance)
        await tb.reset(1)
        if distance % 6:
            await case.open(tb)
        else:
            await _restart(tb, case)


@cocotb.test()
@cocotb.parametrize(force=[False, True])
async def late_answers(dut: Any, force: bool) -> None:
    """The memory goes on answering what a reset has cut off; none of it reaches a program."""
    tb = await Testbench.start(dut)
    case = make_units_case(tb.config, 98)
    tb.memory.latency = (30, 90)
    await case.open(tb)
    seen = 0
    for number in range(MOMENTS):
        tb.memory.late = (20, SETTLE_CYCLES - 200)
        await tb.start_program(case.raw)
        await tb.cycles(40 + LATEST * number // MOMENTS)
        if force:
            tb.memory.cut_off()
            await tb.write("SOFT_RESET", 2)
            await tb.ready()
        else:
            await tb.reset(1 + number % 4)
        seen += tb.memory.answered_late
        assert not tb.memory.outstanding, "ready before the last answer"
        if not force:
            await case.open(tb)
        await case.run(tb)
    assert seen > 20, f"only {seen} answers came late; the test shows nothing"


@cocotb.test()
async def ready_waits_for_quiet(dut: Any) -> None:
    """CTRL.ready rises `SETTLE_CYCLES` after the last answer, and a start before it is ignored."""
    tb = await Testbench.start(dut)
    case = make_units_case(tb.config, 99)
    await case.open(tb)
    tb.memory.latency = (30, 90)
    tb.memory.late = (700, 900)
    await tb.start_program(case.raw)
    await tb.cycles(60)
    dut.ap_rst_n.value = 0
    await tb.cycles(1)
    dut.ap_rst_n.value = 1
    assert await tb.field("STATE", "settling")
    await tb.write("CTRL", 1)
    while tb.memory.outstanding:
        await tb.cycles(1)
    waited = 0
    while not await tb.field("CTRL", "ready"):
        await tb.cycles(8)
        waited += 8
        assert waited <= SETTLE_CYCLES, "CTRL.ready does not rise"
    assert tb.memory.answered_late and waited > SETTLE_CYCLES // 4
    assert not await tb.field("STATE", "settling")
    assert await tb.read("PROGRAMS") == 0 and tb.memory.beats("prog") > 0
    await _restart(tb, case)
