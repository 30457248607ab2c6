# SPDX-License-Identifier: Apache-2.0
"""The simulated accelerator behind the driver's transport interface."""

from __future__ import annotations

from collections.abc import Callable

from lutvar.host.errors import BusError
from lutvar.host.transport import Bytes, Clock

from .device import SimulationTimeout, VerilatedDevice
from .memory import check_bounds


class SimulatedMemory:
    """`MemoryTransport` over a `VerilatedDevice`: the board's signals, time counted exactly.

    Args:
        device: the simulation; its memory is all of the device's.
        watch: called with the cycles so far, every `WATCHED` cycles of a long wait.
    """

    #: Cycles between two calls of `watch`: 20 s of the largest accelerator.
    WATCHED = 1 << 16
    clock: Clock

    def __init__(self, device: VerilatedDevice, watch: Callable[[int], None] | None = None) -> None:
        self.device, self.base, self.size = device, 0, len(device.memory)
        self._watch = watch
        self.name, self.clock = "sim (Verilator)", "cycles"

    def read32(self, offset: int) -> int:
        """See `MemoryTransport`."""
        try:
            value, response = self.device.reg_read(offset)
        except SimulationTimeout:
            raise BusError("read", offset, None) from None
        if response:
            raise BusError("read", offset, response)
        return value

    def write32(self, offset: int, value: int) -> None:
        """See `MemoryTransport`."""
        try:
            response = self.device.reg_write(offset, value)
        except SimulationTimeout:
            raise BusError("write", offset, None) from None
        if response:
            raise BusError("write", offset, response)

    def read(self, offset: int, count: int) -> Bytes:
        """See `MemoryTransport`."""
        check_bounds(self.size, offset, count)
        return self.device.memory[offset : offset + count].copy()

    def write(self, offset: int, data: Bytes) -> None:
        """See `MemoryTransport`."""
        check_bounds(self.size, offset, len(data))
        self.device.memory[offset : offset + len(data)] = data

    def arm(self) -> None:
        """See `MemoryTransport`: the line is a level, there is nothing to forget."""

    def wait(self, amount: float) -> bool:
        """See `MemoryTransport`."""
        cycles = int(amount)
        if self._watch is None:
            return self.device.run(cycles)
        end = self.device.cycles + cycles
        while not self.device.run(min(self.WATCHED, end - self.device.cycles)):
            if self.device.cycles >= end:
                return False
            self._watch(self.device.cycles)
        return True

    def now(self) -> float:
        """See `MemoryTransport`."""
        return self.device.cycles

    def deadline(self, cycles: int) -> float:
        """See `MemoryTransport`: this clock is the device's own."""
        return cycles

    def close(self) -> None:
        """See `MemoryTransport`."""
        self.device.close()
