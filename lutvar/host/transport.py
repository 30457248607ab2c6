# SPDX-License-Identifier: Apache-2.0
"""The seam between driver and machinery: register access and three byte streams.

The driver is written against `Transport` only; simulators, test doubles and boards implement it.
One `send` or `receive` is one AXI4-Stream packet: the sender sets TLAST on its last beat, the
receiver checks that TLAST came exactly there.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]


class Stream(Enum):
    """The accelerator's streams, by the name of their ports."""

    ACT = "s_axis_act"
    WGT = "s_axis_wgt"
    OUT = "m_axis_out"


class Transfer:
    """One packet under way.

    Attributes:
        stream: where it travels.
        data: for a send, what is sent; for a receive, the buffer that fills. uint8 [nbytes].
        done: bytes that have passed so far (a transport that cannot tell reports 0 until the end).
    """

    def __init__(self, stream: Stream, data: Bytes) -> None:
        self.stream, self.data, self.done = stream, data, 0

    @property
    def complete(self) -> bool:
        return self.done == len(self.data)

    def __repr__(self) -> str:
        return f"Transfer({self.stream.value}, {self.done} of {len(self.data)} bytes)"


class Transport(Protocol):
    """Access to one device. Time is counted in cycles of the device clock.

    A transport to real hardware turns cycles into seconds with its clock frequency and adds its own
    latency. Transfers of one stream complete in the order in which they were given.
    """

    def read32(self, offset: int) -> int:
        """Read the register at a byte offset. Raises BusError."""
        ...

    def write32(self, offset: int, value: int) -> None:
        """Write a register, all four bytes. Raises BusError."""
        ...

    def send(self, stream: Stream, data: Bytes) -> Transfer:
        """Queue a packet, uint8 [n], n a multiple of the stream width. Returns at once.

        The caller leaves ``data`` unchanged until the transfer is complete.
        """
        ...

    def receive(self, stream: Stream, nbytes: int) -> Transfer:
        """Queue the reception of a packet of exactly ``nbytes``. Returns at once."""
        ...

    def wait(self, transfers: Sequence[Transfer], cycles: int) -> None:
        """Return when all are complete; other queued transfers move on meanwhile.

        Raises:
            TransferTimeout: not complete after ``cycles``. The transfers stay queued.
            FrameError: a received packet had another length.
        """
        ...

    def idle(self, cycles: int) -> None:
        """Let time pass. Queued transfers move on."""
        ...

    def abort(self) -> None:
        """Forget every queued transfer, also what has been received beyond them."""
        ...

    def close(self) -> None:
        """Release what the transport holds. Calling it again does nothing."""
        ...


def as_bytes(data: Bytes | bytes | bytearray | memoryview) -> Bytes:
    """View anything byte-like as uint8 [n] without a copy where possible."""
    if isinstance(data, np.ndarray):
        return np.ascontiguousarray(data).view(np.uint8).reshape(-1)
    return np.frombuffer(data, dtype=np.uint8)
