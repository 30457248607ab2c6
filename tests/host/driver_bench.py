# SPDX-License-Identifier: Apache-2.0
"""cocotb side of `test_driver_cocotb`: the blocking driver in the simulator, on AXI bus models."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable

import cocotb
from cocotb.clock import Clock
from cocotb.task import bridge, resume
from cocotb.triggers import ClockCycles
from host_cases import gateware
from host_scenarios import BLOCKED, SCENARIOS, Rig

from lutvar.host import Stream
from lutvar.sim.cocotb_transport import CocotbTransport

_PERIOD_NS = 4


async def _run(dut, scenario: Callable[[Rig], None]) -> None:  # type: ignore[no-untyped-def]
    transport = CocotbTransport(dut)
    dut.ap_rst_n.value = 0
    cocotb.start_soon(Clock(dut.ap_clk, _PERIOD_NS, unit="ns").start())
    await ClockCycles(dut.ap_clk, 5)
    dut.ap_rst_n.value = 1
    models = {**transport.sources, Stream.OUT: transport.sink}
    draw = random.Random(1)

    async def set_pauses(stream: Stream, probability: float) -> None:
        model = models[stream]
        model.clear_pause_generator()
        model.pause = probability >= BLOCKED
        if 0 < probability < BLOCKED:
            model.set_pause_generator(draw.random() < probability for _ in itertools.count())

    rig = Rig(transport, *gateware("fp4"), resume(set_pauses))
    await bridge(scenario)(rig)


@cocotb.test()
@cocotb.parametrize(scenario=SCENARIOS)
async def driver(dut, scenario: Callable[[Rig], None]) -> None:  # type: ignore[no-untyped-def]
    await _run(dut, scenario)
