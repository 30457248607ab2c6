# SPDX-License-Identifier: Apache-2.0
"""The interface between driver and hardware: registers, memory, one interrupt.

The driver is written against `MemoryTransport` only; the simulator implements it here, a board
with mapped registers and a contiguous buffer (UIO and u-dma-buf, or XRT) in the same few methods.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]


class MemoryTransport(Protocol):
    """Access to one accelerator. Time is counted in cycles of the device's clock.

    Attributes:
        base: address, as the device sees it, of the memory that the driver may use.
        size: its bytes.
    """

    base: int
    size: int

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

    def wait(self, cycles: int) -> bool:
        """Let time pass until the interrupt line is high; False when `cycles` passed before."""
        ...

    @property
    def cycles(self) -> int:
        """Cycles that have passed, for deadlines."""
        ...

    def close(self) -> None:
        """Release what the transport holds. Calling it again does nothing."""
        ...


def as_bytes(values: NDArray[np.generic] | bytes) -> Bytes:
    """View values as uint8 [n], little-endian as they lie in memory."""
    if isinstance(values, bytes):
        return np.frombuffer(values, np.uint8)
    return np.ascontiguousarray(values).view(np.uint8).reshape(-1)
