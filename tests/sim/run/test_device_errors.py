# SPDX-License-Identifier: Apache-2.0
"""Errors of the whole accelerator: what the driver says, and that a soft reset repairs it."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from lutvar.contract.isa import INSTRUCTION_BYTES, PAYLOAD_FIELDS, Opcode, Region
from lutvar.contract.register_map import DeviceError, HeaderRule, InstructionRule
from lutvar.host import AcceleratorError, MissedInterrupt, ProgramTimeout
from lutvar.sim.device import MemoryTiming
from lutvar.sim.transport import SimulatedMemory
from support.sim.device_rig import FAST
from support.sim.small_pass import Small

pytestmark = pytest.mark.verilator

PAGE = 4096


def test_a_refused_burst_of_each_port(small: Small) -> None:
    """The port and the burst are named; afterwards the accelerator works."""
    small.right()
    rig, plan = small.rig, small.compiled.plan
    layout = rig.transformer.packed.layout
    device = rig.device
    program = device.register("PROGRAM_LO") | device.register("PROGRAM_HI") << 32
    cache = [(small.line(Region.CACHE, at & (1 << 38) - 1)) for at in (
        plan.keys(0, True, 1, 0), plan.values(0, True, 2, 0))]  # fmt: skip
    work = small.line(Region.WORK, 0)
    cases: list[tuple[Any, bool, DeviceError, int]] = [
        ("prog", False, DeviceError.READ_PROG, program + 20 * INSTRUCTION_BYTES),
        ("wgt", False, DeviceError.READ_WGT,
         small.line(Region.MODEL, layout.layer(1, "fc1").tiles[0].offset + 7 * 64)),
        ("front", False, DeviceError.READ_FRONT, small.line(Region.IO, 0)),
        ("front", False, DeviceError.READ_FRONT,
         small.line(Region.MODEL, layout.block_vector(3, 2, "shift2"))),
        ("post", False, DeviceError.READ_POST,
         small.line(Region.MODEL, layout.block_vector(3, 1, "gate2"))),
        ("keys", False, DeviceError.READ_KEYS, cache[0]),
        ("values", False, DeviceError.READ_VALUES, cache[1]),
        ("post", True, DeviceError.WRITE_POST, work),
        ("values", True, DeviceError.WRITE_VALUES, work + (plan.o(0) & (1 << 38) - 1)),
    ]  # fmt: skip
    for response, (port, write, code, line) in enumerate(cases):
        rig.simulation.inject_error(port, line, line, write=write, response=2 + response % 2)
        try:
            error = small.fails()
        finally:
            rig.simulation.clear_error(port, write=write)
        assert error.code == code, (port, write)
        # The start of a burst that holds the line; no burst crosses 4 KiB.
        assert 0 <= line - error.snapshot.error_address < PAGE
        assert line // PAGE == error.snapshot.error_address // PAGE
        words = f"refused a {'write' if write else 'read'} of m_axi_{port} at 0x"
        assert f"{words}{error.snapshot.error_address:X}" in str(error)
    small.right()
    assert not rig.simulation.violations


def test_bases_beyond_the_memory(small: Small) -> None:
    """All 64 address bits go out: a base above 4 GiB is refused there, by the memory."""
    device = small.rig.device
    limit = device.register("LIMIT0_HI")
    device._write("BASE0_HI", 0x12)
    device._write("LIMIT0_HI", 0x13)
    try:
        error = small.fails()
    finally:
        device._write("BASE0_HI", 0)
        device._write("LIMIT0_HI", limit)
    assert error.code in (DeviceError.READ_WGT, DeviceError.READ_FRONT)
    assert error.snapshot.error_address >> 32 == 0x12
    small.right()


@pytest.mark.parametrize("region", list(Region))
def test_a_region_that_ends_too_early(small: Small, region: Region) -> None:
    """A program that needs more than the driver has opened is told so, and touches no more."""
    device, name = small.rig.device, f"LIMIT{int(region)}"
    limit = device.register(f"{name}_LO") | device.register(f"{name}_HI") << 32
    device._limit = lambda *_: None  # type: ignore[method-assign]
    device._write_address(name, small.line(region, 64))
    try:
        error = small.fails()
    finally:
        del device._limit
        device._write_address(name, limit)
    assert DeviceError(error.code).name.startswith("OUTSIDE_"), error
    assert small.line(region, 0) <= error.snapshot.error_address < limit
    assert "lies in no region" in str(error)
    small.right()


def changed(program: bytes, bit: int, width: int, value: int) -> bytes:
    """The program with one field replaced."""
    whole = int.from_bytes(program, "little")
    mask = (1 << width) - 1 << bit
    return (whole & ~mask | value << bit).to_bytes(len(program), "little")


def test_bad_headers(small: Small) -> None:
    program = small.compiled.program.encode()
    for bit, width, value, rule in (
        (0, 64, 0, HeaderRule.MAGIC),
        (64, 64, 1, HeaderRule.HASH),
        (128, 32, 0, HeaderRule.LENGTH),
        (160, 32, 1, HeaderRule.ZERO),
    ):
        error = small.fails(changed(program, bit, width, value))
        assert error.code == DeviceError.BAD_HEADER and error.snapshot.error_info == rule
        assert rule.name in str(error)
    small.right()


def test_bad_instructions(small: Small) -> None:
    """The instruction and the rule are named; what came before it does no harm."""
    program = small.compiled.program
    raw = program.encode()

    def place(opcode: Opcode, name: str) -> tuple[int, int, int]:
        index = max(i for i, item in enumerate(program.instructions) if item.opcode == opcode)
        item = next(f for f in PAYLOAD_FIELDS[opcode] if f.name == name)
        return index, item.low, item.width

    last = len(program.instructions) - 1
    cases = [
        ((3, 112, 16), 0, InstructionRule.MARK),
        ((5, 16, 16), 6, InstructionRule.INDEX),
        ((2, 0, 8), 77, InstructionRule.OPCODE),
        ((last, 200, 1), 1, InstructionRule.UNUSED),
        (place(Opcode.FRONT, "address"), 32, InstructionRule.ALIGNMENT),
        (place(Opcode.FRONT, "rows"), 0, InstructionRule.ROWS),
        (place(Opcode.MATRIX, "bank"), 7, InstructionRule.BANK),
        (place(Opcode.MATRIX, "groups"), 0, InstructionRule.GROUPS),
        (place(Opcode.POST, "blocks"), 0, InstructionRule.OUTPUTS),
        (place(Opcode.ATTEND, "heads"), 0, InstructionRule.HEADS),
        (place(Opcode.ATTEND, "keys"), 3000, InstructionRule.KEYS),
        (place(Opcode.FETCH, "beats"), 0, InstructionRule.BEATS),
    ]
    for (index, low, width), value, rule in cases:
        bit = (index + 1) * INSTRUCTION_BYTES * 8 + low
        error = small.fails(changed(raw, bit, width, value))
        assert error.code == DeviceError.BAD_INSTRUCTION, rule
        assert error.snapshot.error_info == index | rule << 24, rule
        assert f"instruction {index} breaks rule {rule.name}" in str(error)
    # END in the middle: the program's length says that more follow.
    cut = raw[: 11 * INSTRUCTION_BYTES] + raw[-INSTRUCTION_BYTES:] + raw[12 * INSTRUCTION_BYTES :]
    cut = changed(cut, 11 * INSTRUCTION_BYTES * 8 + 16, 16, 10)
    error = small.fails(cut)
    assert error.snapshot.error_info == 10 | InstructionRule.END << 24
    small.right()


def test_a_wait_that_never_ends(small: Small) -> None:
    """The watchdog names the unit whose instruction waits."""
    program = small.compiled.program
    index = next(i for i, item in enumerate(program.instructions) if item.opcode == Opcode.ATTEND)
    bit = (index + 1) * INSTRUCTION_BYTES * 8 + 32 + 16 * 3  # wait_post
    error = small.fails(changed(program.encode(), bit, 16, 30_000))
    assert error.code == DeviceError.WATCHDOG
    waiting = re.findall(r"waits_(\w+)", str(error))
    assert "attend" in waiting and "fetch" not in waiting, str(error)
    small.right()


def test_a_deadline(small: Small) -> None:
    """Time runs out before the program does: the driver says how far it has come."""
    with pytest.raises(ProgramTimeout, match="too slow not finished after 500 cycles") as caught:
        small.rig.device.run(small.compiled.program.encode(), 500, "too slow")
    assert caught.value.snapshot.error == 0 and "instructions complete" in str(caught.value)
    small.rig.device.soft_reset()
    small.right()


def test_a_memory_that_never_answers(small: Small) -> None:
    """The watchdog reports; a soft reset waits for the memory; a reset of the system repairs it."""
    rig, device = small.rig, small.rig.device
    rig.simulation.set_timing(MemoryTiming((1_000_000_000, 1_000_000_000)))
    with pytest.raises(AcceleratorError) as caught:
        device.run(small.compiled.program.encode(), 1_000_000)
    assert caught.value.code == DeviceError.WATCHDOG
    state = int(caught.value.snapshot.error_info)
    assert not state >> 27 & 1  # quiet: a burst is outstanding
    with pytest.raises(ProgramTimeout, match="soft reset not finished") as late:
        device.soft_reset()
    assert "resetting" in str(late.value)
    rig.simulation.set_timing(FAST)
    rig.simulation.reset()
    device.open()
    rig.transformer.__init__(device, rig.transformer.packed, rig.transformer.slots)  # type: ignore[misc]
    small.right()


class _Interrupts(SimulatedMemory):
    """A line that wakes the driver too early, or that nobody hears."""

    early, heard = 0, True

    def wait(self, amount: float) -> bool:
        if self.early:
            self.early -= 1
            return True
        if self.heard:
            return super().wait(amount)
        self.device.idle(int(amount))
        return False


def test_logits_are_never_those_of_the_pass_before(small: Small) -> None:
    """Whatever the interrupt line does: results are read when the device says that it is done."""
    device, compiled = small.rig.device, small.compiled
    plain, line = device.transport, _Interrupts(small.rig.simulation)
    device.transport = line
    try:
        line.early = 3
        device.write(Region.IO, compiled.logits_first, np.zeros(compiled.logits_bytes, np.uint8))
        small.right()
        line.heard = False
        device.write(Region.IO, compiled.logits_first, np.zeros(compiled.logits_bytes, np.uint8))
        with pytest.warns(MissedInterrupt, match="the device has finished"):
            small.right()
    finally:
        device.transport = plain
