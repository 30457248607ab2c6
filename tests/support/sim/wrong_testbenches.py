# SPDX-License-Identifier: Apache-2.0
"""Benches that must fail although the accelerator is right: their checks find what is wrong."""

import cocotb
import numpy as np

from lutvar.contract.isa import Region
from lutvar.sim.testbenches.common import BASES, Testbench
from lutvar.sim.testbenches.transformer import TransformerCase, make_step
from lutvar.sim.testbenches.units import SUMS, make_units_case


@cocotb.test()
async def another_bit_is_expected(dut) -> None:
    tb = await Testbench.start(dut)
    case = make_units_case(tb.config, 1)
    expected = bytearray(case.after[Region.IO])
    expected[SUMS + 5] ^= 1
    case.after[Region.IO] = bytes(expected)
    await case.open(tb)
    await case.run(tb)


@cocotb.test()
async def another_input_than_that_of_the_golden_model(dut) -> None:
    tb = await Testbench.start(dut)
    case = TransformerCase(tb.config)
    await case.open(tb)
    step = make_step(np.random.default_rng(1), 0, 1, guided=False)
    put = tb.put

    def altered(region: Region, content: bytes, offset: int = 0) -> None:
        put(region, content, offset)
        if region is Region.IO:
            tb.memory.write(BASES[region], np.float32(0.5).tobytes())

    tb.put = altered  # type: ignore[method-assign]
    await case.run(tb, [step])


@cocotb.test()
async def the_memory_refuses(dut) -> None:
    tb = await Testbench.start(dut)
    case = make_units_case(tb.config, 1)
    await case.open(tb)
    tb.memory.injected_errors = {("values", True): (0, (1 << 64) - 1, 2)}
    await case.run(tb)
