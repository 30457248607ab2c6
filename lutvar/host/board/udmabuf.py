# SPDX-License-Identifier: Apache-2.0
"""A contiguous buffer of u-dma-buf, cached by the processor and synchronised by range.

Nothing snoops the processor's caches on the way PL - NoC - DDR. So the device sees what the
processor wrote after `sync_for_device`, and the processor sees what the device wrote after
`sync_for_cpu`. One store of a 64-bit number into these attributes synchronises one range: offset in
the upper word, size in bits 31 to 4, direction in bits 3 and 2, and bit 0 set. It leaves the
buffer's own sync_offset and sync_size alone, so nothing is shared with other users of the
attributes, and needs no ioctl, which only later versions have.
"""

from __future__ import annotations

import contextlib
import os
from enum import IntEnum

import numpy as np

from lutvar.contract.isa import ALIGN
from lutvar.host.errors import BadInput
from lutvar.host.transport import Bytes

from .errors import UnusableBuffer
from .files import Files
from .sysfs import BufferDevice

LINE = 64  #: bytes of a cache line of the A72; smaller ranges reach their neighbours anyway
#: A sync command has 32 bits for the offset.
_REACH = 1 << 32
_PIECE = 1 << 30  #: bytes of one sync command


class Direction(IntEnum):
    """Who wrote the range, as u-dma-buf numbers it."""

    TO_DEVICE = 1
    FROM_DEVICE = 2


class DmaBuffer:
    """A mapped u-dma-buf device.

    Args:
        files: where. device: what `sysfs.find_buffer` found.

    Attributes:
        base: its address, as the device sees it. size: usable bytes.

    Raises:
        UnusableBuffer: misaligned, or beyond the DMA mask.
        NoPermission: the node or its sync attributes may not be opened.
    """

    def __init__(self, files: Files, device: BufferDevice) -> None:
        where = f"u-dma-buf device {device.name!r}"
        if device.address % ALIGN:
            raise UnusableBuffer(
                f"{where} starts at 0x{device.address:X}, which is no multiple of {ALIGN}; align "
                "its reserved memory in the device tree"
            )
        self.device, self.base, self.size = device, device.address, min(device.size, _REACH)
        self._files = files
        with contextlib.ExitStack() as opened:
            node = self._open(opened, str(device.node), os.O_RDWR)  # without O_SYNC: cached
            mask = files.dma_mask_bits(node)
            if mask is not None and device.address + device.size > 1 << mask:
                raise UnusableBuffer(
                    f"{where} ends at 0x{device.address + device.size:X}, beyond its DMA mask of "
                    f"{mask} bits; give its device tree node dma-mask = <64>"
                )
            self._view = files.memory(node, self.size)
            self._attributes: dict[str, int] = {}
            if not device.coherent:
                for name in ("sync_for_cpu", "sync_for_device"):
                    path = str(files.path(*device.folder, name))
                    self._attributes[name] = self._open(opened, path, os.O_WRONLY)
            self._opened = opened.pop_all()

    def _open(self, opened: contextlib.ExitStack, path: str, flags: int) -> int:
        fd = self._files.open(self._files.root / path, flags)
        opened.callback(self._files.close, fd)
        return fd

    def write(self, offset: int, data: Bytes) -> None:
        """Put bytes where the device sees them. Raises BadInput outside the buffer."""
        end = offset + len(data)
        self._check(offset, end)
        if not len(data):
            return
        # A line that is written in part also holds bytes that the device may have written since.
        edges = {at // LINE * LINE for at in (offset, end) if at % LINE}
        for edge in sorted(edges):
            self._sync("sync_for_cpu", edge, min(edge + LINE, self.size), Direction.FROM_DEVICE)
        self._view[offset:end] = data
        self._sync("sync_for_device", offset, end, Direction.TO_DEVICE)

    def read(self, offset: int, count: int) -> Bytes:
        """A copy of bytes as the device wrote them. Raises BadInput outside the buffer."""
        self._check(offset, offset + count)
        if not count:
            return np.empty(0, np.uint8)
        self._sync("sync_for_cpu", offset, offset + count, Direction.FROM_DEVICE)
        return self._view[offset : offset + count].copy()

    def _sync(self, attribute: str, start: int, end: int, direction: Direction) -> None:
        """Synchronise the cache lines of a range."""
        if self.device.coherent:
            return
        start, end = start // LINE * LINE, min(-(-end // LINE) * LINE, self.size)
        for at in range(start, end, _PIECE):
            # Four bits of the size are taken: a buffer that ends within a line is rounded up, which
            # the driver refuses; its size is a multiple of the page size, so there is none.
            size = min(end - at, _PIECE)
            command = at << 32 | size & 0xFFFF_FFF0 | direction << 2 | 1
            self._files.store(self._attributes[attribute], f"0x{command:016X}")

    def _check(self, offset: int, end: int) -> None:
        if offset < 0 or end < offset or end > self.size:
            raise BadInput(
                f"bytes {offset} to {end} are outside the buffer {self.device.name!r} of "
                f"{self.size} bytes; use fewer slots or a larger buffer"
            )

    def close(self) -> None:
        """Unmap and close. Calling it again does nothing."""
        self._view = np.empty(0, np.uint8)
        self._opened.close()
