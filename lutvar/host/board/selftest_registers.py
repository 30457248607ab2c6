# SPDX-License-Identifier: Apache-2.0
"""Registers and interrupt of a device, with accesses that every bus allows."""

from __future__ import annotations

from typing import Any

from lutvar.contract.isa import Instruction, Opcode
from lutvar.contract.register_map import BY_NAME, REGISTERS
from lutvar.contract.register_types import Access
from lutvar.host.compile.program import Program, accelerator_hash
from lutvar.host.device import PAGE, Device
from lutvar.host.transport import Bytes, as_bytes

from .selftest_memory import Difference

#: Registers that keep 32 bits and start nothing.
KEEPING = tuple(r.name for r in REGISTERS if r.access is Access.RW and not r.fields
                and r.name != "WATCHDOG")  # fmt: skip


def registers(device: Device, salt: int) -> dict[str, Any]:
    """Stuck bits, registers taken for one another, state at rest. Raises Difference.

    Accesses that the device refuses are left out: on a board they end the process.
    """
    device.soft_reset()
    for bit in range(32):
        for value in (1 << bit, ~(1 << bit) & 0xFFFF_FFFF):
            device.transport.write32(BY_NAME["SCRATCH"].offset, value)
            _expect(device, "SCRATCH", value)
    before = {name: device.register(name) for name in KEEPING}
    values = {n: (BY_NAME[n].offset + salt) * 0x9E37_79B1 & 0xFFFF_FFFF for n in KEEPING}
    try:
        for name, value in values.items():
            device.transport.write32(BY_NAME[name].offset, value)
        for name, value in values.items():
            _expect(device, name, value)
    finally:
        for name, value in before.items():
            device.transport.write32(BY_NAME[name].offset, value)
    for name, value in (("CTRL", 0xC), ("ERROR", 0), ("ISR", 0)):
        _expect(device, name, value)
    cycles = device.register("CYCLES_LO")
    _expect(device, "CYCLES_LO", cycles)  # nothing runs, so nothing counts
    return {"registers": len(values) + 5, "unsolicited": device.register("UNSOLICITED")}


def _expect(device: Device, name: str, right: int) -> None:
    value = device.register(name)
    if value != right:
        raise Difference(f"{name} reads 0x{value:08X}, right is 0x{right:08X}")


def interrupt(device: Device) -> dict[str, Any]:
    """A program that does nothing ends, is counted, and raises the interrupt. Raises Difference."""
    empty: Bytes = as_bytes(bytes(PAGE))
    device.place(empty, PAGE, PAGE, PAGE)
    finished, missed = device.register("PROGRAMS"), device.missed_interrupts
    program = Program((Instruction(Opcode.END),), accelerator_hash(device.config))
    counters = device.run(program.encode(), 100_000, "program of END alone")
    _expect(device, "PROGRAMS", finished + 1)
    if device.missed_interrupts != missed:
        raise Difference("the program ended and no interrupt came; check the line and its driver")
    return {"cycles": counters.cycles}
