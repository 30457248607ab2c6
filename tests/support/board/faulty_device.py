# SPDX-License-Identifier: Apache-2.0
"""A golden device with a fault, for tests of what finds faults."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np

from lutvar.contract.accelerator import load_accelerator
from lutvar.contract.isa import Instruction
from lutvar.contract.register_map import BY_NAME
from lutvar.host.board.references import References
from lutvar.host.board.selftest import SelfTest
from lutvar.host.transport import Bytes
from lutvar.sim.golden_device import GoldenDevice
from lutvar.sim.interpret import Machine

CONFIG = load_accelerator("small-fp4")
SIZE = 1 << 20


class Faulty(GoldenDevice):
    """A golden device with a fault.

    Attributes:
        read_fault: of a register's name and value, what is read.
        memory_fault: of an offset, where the host's access goes.
        cached: what the host writes to these offsets stays in its cache.
        deaf: the interrupt is not connected.
        step_fault: called after each instruction.
    """

    def __init__(self, size: int = SIZE) -> None:
        super().__init__(CONFIG, size=size)
        self.read_fault: Callable[[str, int], int] = lambda _name, value: value
        self.memory_fault: Callable[[int], int] = lambda offset: offset
        self.cached, self.deaf = range(0), False
        self.cache = np.zeros(size, np.uint8)
        self.step_fault: Callable[[Instruction, Machine], None] = lambda _item, _machine: None

    def read32(self, offset: int) -> int:
        name = next(n for n, r in BY_NAME.items() if r.offset == offset)
        return self.read_fault(name, super().read32(offset))

    def read(self, offset: int, count: int) -> Bytes:
        if offset in self.cached:
            return self.cache[offset : offset + count].copy()
        return super().read(self.memory_fault(offset), count)

    def write(self, offset: int, data: Bytes) -> None:
        if offset in self.cached:
            self.cache[offset : offset + len(data)] = data
        else:
            super().write(self.memory_fault(offset), data)

    def wait(self, amount: float) -> bool:
        return super().wait(amount) and not self.deaf

    def _execute(self, verdict: Any) -> None:
        order, machine = verdict.order, None
        for item in order:
            verdict.order = [item]
            super()._execute(verdict)
            machine = self._machine
            assert machine is not None
            self.step_fault(item, machine)
        verdict.order = order


def failures(device: GoldenDevice, rounds: int = 1, **more: Any) -> dict[str, str]:
    """Failed checks of a self-test and what they say."""
    verdict = SelfTest(device, CONFIG, **more).run(rounds)
    data = json.loads(json.dumps(verdict.as_dict()))
    assert data["passed"] is verdict.passed and len(data["outcomes"]) == len(verdict.outcomes)
    return {o.check: o.what for o in verdict.outcomes if o.result == "failed"}


def recorded(**more: Any) -> References:
    """References that a self-test of a sound device records."""
    test = SelfTest(GoldenDevice(CONFIG, size=1 << 23), CONFIG, **more)
    assert test.run(1).passed
    return test.recorded
