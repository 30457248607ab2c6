# SPDX-License-Identifier: Apache-2.0
"""Memory behind the processor's caches: what is written reaches the device, what is read is new.

The kinds of buffer differ in how a range is synchronised; which range, and when, is the same.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from enum import IntEnum

import numpy as np

from lutvar.host.errors import BadInput
from lutvar.host.transport import Bytes

LINE = 64  #: bytes of a cache line of the A72; smaller ranges reach their neighbours anyway


class Direction(IntEnum):
    """Who wrote the range, as u-dma-buf numbers it."""

    TO_DEVICE = 1
    FROM_DEVICE = 2


class SyncedBuffer(ABC):
    """A contiguous buffer that the processor sees through its caches.

    Attributes:
        label: for errors. base: its address, as the device sees it. size: usable bytes.
        coherent: hardware keeps caches and memory equal; nothing has to be synchronised.
    """

    label: str
    base: int
    size: int
    coherent: bool
    _view: Bytes

    def write(self, offset: int, data: Bytes) -> None:
        """Put bytes where the device sees them. Raises BadInput outside the buffer."""
        end = offset + len(data)
        self._check(offset, end)
        if not len(data):
            return
        # A line that is written in part also holds bytes that the device may have written since.
        edges = {at // LINE * LINE for at in (offset, end) if at % LINE}
        for edge in sorted(edges):
            self._lines("sync_for_cpu", edge, min(edge + LINE, self.size), Direction.FROM_DEVICE)
        self._view[offset:end] = data
        self._lines("sync_for_device", offset, end, Direction.TO_DEVICE)

    def read(self, offset: int, count: int) -> Bytes:
        """A copy of bytes as the device wrote them. Raises BadInput outside the buffer."""
        self._check(offset, offset + count)
        if not count:
            return np.empty(0, np.uint8)
        self._lines("sync_for_cpu", offset, offset + count, Direction.FROM_DEVICE)
        return self._view[offset : offset + count].copy()

    def _lines(self, name: str, start: int, end: int, direction: Direction) -> None:
        """Synchronise the cache lines of a range."""
        if not self.coherent:
            first, last = start // LINE * LINE, min(-(-end // LINE) * LINE, self.size)
            self._sync(name, first, last, direction)

    @abstractmethod
    def _sync(self, name: str, start: int, end: int, direction: Direction) -> None:
        """Synchronise a range of whole lines; `name` says for whom, as u-dma-buf does."""

    def _check(self, offset: int, end: int) -> None:
        if offset < 0 or end < offset or end > self.size:
            raise BadInput(
                f"bytes {offset} to {end} are outside the buffer {self.label} of "
                f"{self.size} bytes; use fewer slots or a larger buffer"
            )

    @abstractmethod
    def close(self) -> None:
        """Unmap and close. Calling it again does nothing."""
