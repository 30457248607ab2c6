# SPDX-License-Identifier: Apache-2.0
"""Whole programs against the golden model: every unit, pauses on every channel, no resets."""

from typing import Any

import cocotb
import numpy as np

from lutvar.contract.isa import UNITS, Opcode
from lutvar.contract.register_map import WRITE_PORTS

from .common import Testbench, build_ports
from .transformer import TransformerCase, make_step
from .units import make_units_case


@cocotb.test()
async def every_unit(dut: Any) -> None:
    """One instruction for each unit; memory afterwards is what the interpreter leaves."""
    tb = await Testbench.start(dut)
    case = make_units_case(tb.config, 1)
    await case.open(tb)
    await case.run(tb)


@cocotb.test()
@cocotb.parametrize(probability=[0.2, 0.7])
async def every_unit_with_pauses(dut: Any, probability: float) -> None:
    """Five programs back to back, with random rests on all channels and random latency."""
    tb = await Testbench.start(dut)
    tb.memory.pauses, tb.memory.latency = probability, (0, 40)
    first = make_units_case(tb.config, 20)
    await first.open(tb)
    for seed in range(5):
        await make_units_case(tb.config, 20 + seed, 1 + seed % 3, 1 + seed).run(tb)
    assert await tb.read("PROGRAMS") == 5


@cocotb.test()
async def serial_mode(dut: Any) -> None:
    """MODE.serial gives the same results, and units never overlap."""
    tb = await Testbench.start(dut)
    case = make_units_case(tb.config, 31)
    await case.open(tb)
    await case.run(tb)
    free = await tb.read64("CYCLES")
    await tb.write("MODE", 1)
    await case.run(tb)
    assert await tb.read64("CYCLES") - free > free, "serial programs take longer"


async def _image(tb: Testbench, case: TransformerCase, seed: int) -> None:
    """An image of three scales; every pass attends to the caches of the passes before it."""
    rng = np.random.default_rng(seed)
    position = 0
    for tokens in (1, 4, 9):
        await case.run(tb, [make_step(rng, position, tokens, label=1)])
        position += tokens


@cocotb.test()
async def image_matches_golden(dut: Any) -> None:
    """Logits and cache records of a guided image; counters agree with the memory."""
    tb = await Testbench.start(dut)
    case = TransformerCase(tb.config)
    await case.open(tb)
    await _image(tb, case, 41)
    assert await tb.read("PROGRAMS") == 3
    for port in build_ports():
        beats = tb.memory.beats(port)
        assert beats and await tb.read(f"READ_BEATS_{port.upper()}") == beats, port
    for port in WRITE_PORTS:
        beats = tb.memory.beats(port, write=True)
        assert beats and await tb.read(f"WRITE_BEATS_{port.upper()}") == beats, port
    cycles = await tb.read64("CYCLES")
    for unit in UNITS:
        active, busy = [await tb.read(f"{n}_{unit.name}") for n in ("ACTIVE", "BUSY")]
        assert 0 < active <= cycles and 0 < busy <= cycles, unit.name


@cocotb.test()
async def image_with_pauses(dut: Any) -> None:
    """The same with random rests on every channel of every port."""
    tb = await Testbench.start(dut)
    tb.memory.pauses, tb.memory.latency = 0.4, (0, 60)
    case = TransformerCase(tb.config)
    await case.open(tb)
    await _image(tb, case, 51)


@cocotb.test()
async def passes_of_different_sizes(dut: Any) -> None:
    """Images at different scales in one pass, with and without guidance, no reset between."""
    tb = await Testbench.start(dut)
    case = TransformerCase(tb.config)
    await case.open(tb)
    rng = np.random.default_rng(61)
    plain = [make_step(rng, 0, 1, guided=False)]
    compiled = await case.run(tb, plain)
    before = await tb.read("INSTRUCTIONS_MATRIX")
    expected = sum(i.opcode is Opcode.MATRIX for i in compiled.program.instructions)
    assert before == expected, "INSTRUCTIONS_MATRIX"
    await case.run(tb, [make_step(rng, 1, 4, guided=False), make_step(rng, 0, 1, slot=1)])
    await case.run(tb, [make_step(rng, 1, 4, slot=1), make_step(rng, 5, 9, guided=False)])
    await case.run(tb, [make_step(rng, 0, 1, slot=2, label=1)])
