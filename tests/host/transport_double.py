# SPDX-License-Identifier: Apache-2.0
"""A `MemoryTransport` of plain registers and bytes that does what a test tells it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from lutvar.contract.accelerator import AcceleratorConfig
from lutvar.contract.identity import accelerator_hash
from lutvar.contract.register_map import BY_NAME, MAGIC, REGISTERS, VERSION

NAMES = {r.offset: r.name for r in REGISTERS}


class TransportDouble:
    """Registers by name, memory, and a clock that moves when the driver waits.

    Attributes:
        registers: values that reads give; a test may change them.
        log: names and values of writes, in order.
        started: called when CTRL.start is written; default: the program finishes in 100 cycles.
        ends: cycle at which the interrupt line rises, or None.
    """

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
        self.reset_takes = 0
        self.ends: int | None = None
        self.cycles = 0
        self.waits: list[int] = []

    def finish(self, cycles: int) -> None:
        """Raise the interrupt line in so many cycles."""
        self.ends = self.cycles + cycles

    def read32(self, offset: int) -> int:
        if NAMES[offset] == "STATE" and self.reset_takes > 0:
            self.reset_takes -= 1
            return self.registers["STATE"] | 1 << 28
        return self.registers[NAMES[offset]]

    def write32(self, offset: int, value: int) -> None:
        name = NAMES[offset]
        self.log.append((name, value))
        if name == "SOFT_RESET":
            self.registers["ERROR"] = 0
        elif name == "CTRL" and value & 1:
            self.started(self)
        elif name == "ISR":
            self.ends = None if self.ends is not None and self.ends <= self.cycles else self.ends
        elif BY_NAME[name].access.name == "RW":
            self.registers[name] = value

    def read(self, offset: int, count: int) -> NDArray[np.uint8]:
        assert offset >= 0 and offset + count <= self.size
        return self.memory[offset : offset + count].copy()

    def write(self, offset: int, data: NDArray[np.uint8]) -> None:
        assert offset >= 0 and offset + len(data) <= self.size
        self.memory[offset : offset + len(data)] = data

    def wait(self, cycles: int) -> bool:
        assert cycles > 0
        self.waits.append(cycles)
        due = self.ends is not None and self.ends <= self.cycles + cycles
        self.cycles = max(self.cycles, self.ends or 0) if due else self.cycles + cycles
        return due

    def close(self) -> None:
        pass

    def written(self, name: str) -> list[int]:
        """Values that were written to a register."""
        return [value for register, value in self.log if register == name]
