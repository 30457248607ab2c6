# SPDX-License-Identifier: Apache-2.0
"""Random register accesses that must not disturb a program; each answer is checked."""

from __future__ import annotations

import random

from lutvar.contract.register_map import BY_NAME, REGISTERS
from lutvar.contract.register_types import ADDRESS_BITS, Access
from lutvar.sim.device import VerilatedDevice

from .events import Event

_CTRL, _SCRATCH = BY_NAME["CTRL"].offset, BY_NAME["SCRATCH"].offset
_LISTED = {register.offset for register in REGISTERS}
_HARMLESS = [*(r.offset for r in REGISTERS if r.access is Access.RO), _SCRATCH]
_OKAY, _SLVERR = 0, 2


def storm(device: VerilatedDevice, event: Event, scratch: int) -> list[str]:
    """Run the accesses of a `storm` event.

    Args:
        device: runs a program.
        event: number and seed of the accesses.
        scratch: value of SCRATCH before.

    Returns:
        What was wrong.
    """
    rng = random.Random(event["seed"])
    problems = []
    for _ in range(event["count"]):
        listed = rng.random() < 0.7
        late = (*(rng.choice((0, 0, 0, 1, 5)) for _ in range(3)),)
        if rng.random() < 0.5:
            offset = rng.choice(sorted(_LISTED)) if listed else rng.randrange(1 << ADDRESS_BITS)
            if offset != _CTRL:  # reading it clears CTRL.done
                problems += _read(device, offset, (late[0], late[1]), scratch)
            continue
        offset = rng.choice(_HARMLESS) if listed else rng.randrange(1 << ADDRESS_BITS)
        if not listed and offset in _LISTED:
            continue
        value, strobe = rng.getrandbits(32), rng.randrange(16)
        response = device.reg_write(offset, value, strobe, (late[0], late[1], late[2]))
        if response != (_OKAY if offset == _SCRATCH else _SLVERR):
            problems.append(f"a write to 0x{offset:03X} was answered with {response}")
        if offset == _SCRATCH:
            mask = sum(0xFF << 8 * i for i in range(4) if strobe >> i & 1)
            scratch = scratch & ~mask | value & mask
    return problems


def _read(device: VerilatedDevice, offset: int, late: tuple[int, int], scratch: int) -> list[str]:
    value, response = device.reg_read(offset, late)
    refused = offset not in _LISTED
    if response != (_SLVERR if refused else _OKAY) or (refused and value):
        return [f"a read of 0x{offset:03X} gave {value:#x} with response {response}"]
    if offset == _SCRATCH and value != scratch:
        return [f"SCRATCH is {value:#x}, {scratch:#x} was written"]
    return []
