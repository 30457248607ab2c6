# SPDX-License-Identifier: Apache-2.0
"""A `MemoryTransport` of plain registers and bytes that does what a test tells it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from lutvar.contract.accelerator import AcceleratorConfig, load_accelerator
from lutvar.contract.identity import accelerator_hash
from lutvar.contract.register_map import BY_NAME, MAGIC, REGISTERS, VERSION
from lutvar.host import Device
from lutvar.host.transport import Clock

NAMES = {r.offset: r.name for r in REGISTERS}


CONFIG = load_accelerator("small-fp4")
MODEL = (np.arange(5000) % 251).astype(np.uint8)
PROGRAM = bytes(range(64)) * 3


class TransportDouble:
    """Registers by name, memory, and a clock that moves when the driver waits.

    Attributes:
        registers: values that reads give; a test may change them.
        log: names and values of writes, in order.
        started: called when CTRL.start is written; default: the program finishes in 100 cycles.
        ends: cycle at which the running program finishes, or None.
        early: so many waits return at once, though nothing has happened.
        connected: the interrupt line is; without it every wait takes its full time.
    """

    clock: Clock

    def __init__(self, config: AcceleratorConfig, base: int = 0x7_0000_0000, size: int = 1 << 16):
        self.base, self.size = base, size
        self.memory = np.zeros(size, np.uint8)
        hash_ = accelerator_hash(config)
        self.registers = {r.name: r.reset for r in REGISTERS} | {
            "MAGIC": MAGIC, "VERSION": VERSION,
            "HASH_LO": hash_ & 0xFFFF_FFFF, "HASH_HI": hash_ >> 32,
        }  # fmt: skip
        self.log: list[tuple[str, int]] = []
        self.started: Callable[[TransportDouble], None] = lambda double: double.finish(100)
        self.reset_takes = self.settle_takes = 0
        self.ends: int | None = None
        self.running = self.done = False
        self.early, self.connected = 0, True
        self.cycles = 0
        self.waits: list[int] = []
        self.name, self.clock = "double", "cycles"
        self.armed = 0

    def finish(self, cycles: int) -> None:
        """Let the program finish in so many cycles."""
        self.ends = self.cycles + cycles

    def _look(self) -> None:
        if self.running and self.ends is not None and self.ends <= self.cycles:
            self.running, self.done, self.ends = False, True, None

    def read32(self, offset: int) -> int:
        self._look()
        if NAMES[offset] == "CTRL":
            ready = not self.registers["ERROR"] and self.settle_takes == 0
            self.settle_takes = max(0, self.settle_takes - 1)
            return 0 if self.running else 1 << 2 | ready << 3
        if NAMES[offset] == "ISR":
            return int(self.done) | bool(self.registers["ERROR"]) << 1
        if NAMES[offset] == "STATE" and self.reset_takes > 0:
            self.reset_takes -= 1
            return self.registers["STATE"] | 1 << 28
        return self.registers[NAMES[offset]]

    def write32(self, offset: int, value: int) -> None:
        name = NAMES[offset]
        self.log.append((name, value))
        if name == "SOFT_RESET":
            self.registers["ERROR"] = 0
            self.running = self.done = False
        elif name == "CTRL" and value & 1:
            self.running = True
            self.started(self)
        elif name == "ISR":
            self._look()
            self.done = self.done and not value & 1
        elif BY_NAME[name].access.name == "RW":
            self.registers[name] = value

    def read(self, offset: int, count: int) -> NDArray[np.uint8]:
        assert offset >= 0 and offset + count <= self.size
        return self.memory[offset : offset + count].copy()

    def write(self, offset: int, data: NDArray[np.uint8]) -> None:
        assert offset >= 0 and offset + len(data) <= self.size
        self.memory[offset : offset + len(data)] = data

    def arm(self) -> None:
        self.armed += 1

    def now(self) -> float:
        return self.cycles

    def deadline(self, cycles: int) -> float:
        return cycles

    def wait(self, amount: float) -> bool:
        cycles = int(amount)
        assert cycles > 0
        self.waits.append(cycles)
        if self.early:
            self.early -= 1
            return True
        soon = self.ends is not None and self.ends <= self.cycles + cycles
        raised = self.connected and (self.done or soon)
        if self.done and raised:
            return True
        self.cycles = max(self.cycles, self.ends or 0) if raised else self.cycles + cycles
        self._look()
        return raised

    def close(self) -> None:
        pass

    def written(self, name: str) -> list[int]:
        """Values that were written to a register."""
        return [value for register, value in self.log if register == name]


def placed(double: TransportDouble) -> Device:
    """The driver with a model and three regions on it."""
    device = Device(double, CONFIG)
    device.open()
    device.place(MODEL, 100, 4096, 8192)
    return device
