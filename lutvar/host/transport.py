# SPDX-License-Identifier: Apache-2.0
"""The interface between driver and hardware: registers, memory, one interrupt, a clock.

The driver is written against `MemoryTransport` only. Boards implement it in `lutvar.host.board`
(mapped registers and a contiguous buffer), the simulator and the golden model in `lutvar.sim`.
"""

from __future__ import annotations

from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
#: What a transport counts time in: cycles of a simulated device's clock, or seconds of a board.
Clock = Literal["cycles", "seconds"]
#: A pause between two looks at a register that is polled.
POLL: dict[Clock, float] = {"cycles": 64, "seconds": 0.001}
#: The longest wait before the driver looks at the device although no interrupt came.
SLICE: dict[Clock, float] = {"cycles": 1 << 20, "seconds": 0.1}


class MemoryTransport(Protocol):
    """Access to one accelerator, by one thread.

    Reads and writes of memory imply what caches need: after `write` the device sees the bytes, and
    `read` gives what the device wrote.

    Attributes:
        name: for messages, such as "uio:lutvar (/dev/uio4)".
        base: address, as the device sees it, of the memory that the driver may use.
        size: its bytes.
        clock: the unit of `now`, `wait` and `deadline`.
    """

    name: str
    base: int
    size: int
    clock: Clock

    def read32(self, offset: int) -> int:
        """Read the register at a byte offset. Raises BusError."""
        ...

    def write32(self, offset: int, value: int) -> None:
        """Write a register. Raises BusError."""
        ...

    def read(self, offset: int, count: int) -> Bytes:
        """A copy of `count` bytes of memory, `offset` from `base`, as the device wrote them."""
        ...

    def write(self, offset: int, data: Bytes) -> None:
        """Put bytes into memory where the device will see them."""
        ...

    def arm(self) -> None:
        """Forget interrupts that have come, and let the next one through; before each start."""
        ...

    def wait(self, amount: float) -> bool:
        """Let time pass until an interrupt comes; False when `amount` passed before.

        A True proves nothing: interrupts may be early, shared, or left over.
        """
        ...

    def now(self) -> float:
        """Time that has passed since some moment, for deadlines."""
        ...

    def deadline(self, cycles: int) -> float:
        """How long `cycles` of the device may take, in this clock; on a board not under 1 s."""
        ...

    def close(self) -> None:
        """Release what the transport holds. Calling it again does nothing."""
        ...


def as_bytes(values: NDArray[np.generic] | bytes) -> Bytes:
    """View values as uint8 [n], little-endian as they lie in memory."""
    if isinstance(values, bytes):
        return np.frombuffer(values, np.uint8)
    return np.ascontiguousarray(values).view(np.uint8).reshape(-1)
