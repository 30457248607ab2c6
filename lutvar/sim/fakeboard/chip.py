# SPDX-License-Identifier: Apache-2.0
"""The accelerator of a fake board: registers, memory, an interrupt line, and time that passes."""

from __future__ import annotations

from typing import Protocol

from lutvar.contract.register_map import BY_NAME
from lutvar.host.transport import Bytes
from lutvar.sim.device import SimulationTimeout, VerilatedDevice

from .wire import NO_ANSWER

#: Where the buffer lies: the first LPDDR4 controller of a VCK190.
BASE = 0x500_0000_0000
_SLICE = 256  #: cycles between two looks at what the driver wants
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
        state, _ = self.device.reg_read(BY_NAME["STATE"].offset)
        return bool(state & _ACTIVE) or not state & _QUIET

    def close(self) -> None:
        """See `Chip`."""
        self.device.close()
