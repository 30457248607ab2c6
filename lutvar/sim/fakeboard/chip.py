# SPDX-License-Identifier: Apache-2.0
"""The accelerator of a fake board: registers, memory, an interrupt line, and time that passes."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from lutvar.contract.accelerator import AcceleratorConfig
from lutvar.contract.register_map import BY_NAME
from lutvar.host.errors import BusError
from lutvar.host.transport import Bytes
from lutvar.sim.device import MemoryTiming, SimulationTimeout, VerilatedDevice
from lutvar.sim.golden_device import GoldenDevice
from lutvar.sim.memory import BASE

from .wire import NO_ANSWER

_SLICE = 256  #: cycles between two looks at what the driver wants
_LEAP = 1 << 16  #: the same of the golden model, whose cycles cost nothing
_ACTIVE = sum(
    1 << f.low
    for f in BY_NAME["STATE"].fields
    if f.name.startswith(("busy", "active", "waits", "incomplete"))
    or f.name in ("dispatch", "end", "resetting", "settling")
)
_QUIET = sum(1 << f.low for f in BY_NAME["STATE"].fields if f.name == "quiet")


class Chip(Protocol):
    """What a `FakeBoard` needs of an accelerator.

    Attributes:
        base: address of the memory. memory: its bytes as the device sees them.
    """

    base: int
    memory: Bytes

    def access(self, write: bool, offset: int, value: int) -> tuple[int, int]:
        """Access a register; (response, value): 0 or 1 OK, NO_ANSWER or an AXI error."""
        ...

    def interrupt(self) -> bool:
        """Level of the interrupt line."""
        ...

    def advance(self) -> bool:
        """Let some time pass; False when the device does nothing by itself any more."""
        ...

    def close(self) -> None:
        """Free it."""
        ...


class VerilatedChip:
    """`Chip` of the exported Verilog.

    Args:
        device: its memory is the whole buffer.
        base: where the accelerator sees it.
    """

    def __init__(self, device: VerilatedDevice, base: int = BASE) -> None:
        self.device, self.base, self.memory = device, base, device.memory
        device.call("segment", base, len(device.memory), 0)

    def access(self, write: bool, offset: int, value: int) -> tuple[int, int]:
        """See `Chip`."""
        try:
            if write:
                return self.device.reg_write(offset, value), 0
            value, response = self.device.reg_read(offset)
            return response, value
        except SimulationTimeout:
            return NO_ANSWER, 0

    def interrupt(self) -> bool:
        """See `Chip`."""
        return self.device.interrupt

    def advance(self) -> bool:
        """See `Chip`."""
        self.device.idle(_SLICE)
        try:
            state, _ = self.device.reg_read(BY_NAME["STATE"].offset)
        except SimulationTimeout:  # whoever asks gets no answer either
            return False
        return bool(state & _ACTIVE) or not state & _QUIET

    def close(self) -> None:
        """See `Chip`."""
        self.device.close()


class GoldenChip:
    """`Chip` of the golden model: the same results in a fraction of the time, no gateware.

    Args:
        device: its memory is the whole buffer.
    """

    def __init__(self, device: GoldenDevice) -> None:
        self.device, self.base, self.memory = device, device.base, device.memory

    def access(self, write: bool, offset: int, value: int) -> tuple[int, int]:
        """See `Chip`."""
        try:
            if write:
                self.device.write32(offset, value)
                return 0, 0
            return 0, self.device.read32(offset)
        except BusError as error:
            return error.resp or NO_ANSWER, 0

    def interrupt(self) -> bool:
        """See `Chip`."""
        return self.device.interrupt

    def advance(self) -> bool:
        """See `Chip`."""
        self.device.wait(_LEAP)
        state = self.device.read32(BY_NAME["STATE"].offset)
        return bool(state & _ACTIVE) or not state & _QUIET

    def close(self) -> None:
        """See `Chip`."""
        self.device.close()


def simulated_chip(
    verilog: Path,
    size: int,
    build_dir: Path | str = "build/sim",
    timing: MemoryTiming | None = None,
) -> VerilatedChip:
    """A chip of exported Verilog with `size` bytes of memory."""
    device = VerilatedDevice.from_verilog(verilog, size, build_dir=build_dir, timing=timing)
    return VerilatedChip(device)


def golden_chip(config: AcceleratorConfig, size: int) -> GoldenChip:
    """A chip of the golden model with `size` bytes of memory."""
    return GoldenChip(GoldenDevice(config, base=BASE, size=size))
