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
from pathlib import Path

import numpy as np

from lutvar.contract.isa import ALIGN
from lutvar.host.errors import HostError

from .buffer import Direction, SyncedBuffer
from .errors import UnusableBuffer
from .files import Files
from .sysfs import BufferDevice

#: A sync command has 32 bits for the offset.
_REACH = 1 << 32
_PIECE = 1 << 30  #: bytes of one sync command


class DmaBuffer(SyncedBuffer):
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
        self.label, self.coherent = repr(device.name), device.coherent
        self._files = files
        with contextlib.ExitStack() as opened:
            node = self._open(opened, device.node, os.O_RDWR)  # without O_SYNC: cached
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
                    path = files.path(*device.folder, name)
                    self._attributes[name] = self._open(opened, path, os.O_WRONLY)
            self._opened = opened.pop_all()

    def _open(self, opened: contextlib.ExitStack, path: Path, flags: int) -> int:
        fd = self._files.open(path, flags)
        opened.callback(self._files.close, fd)
        return fd

    def _sync(self, name: str, start: int, end: int, direction: Direction) -> None:
        for at in range(start, end, _PIECE):
            # Four bits of the size are taken: a buffer that ends within a line is rounded up, which
            # the driver refuses; its size is a multiple of the page size, so there is none.
            size = min(end - at, _PIECE)
            command = at << 32 | size & 0xFFFF_FFF0 | direction << 2 | 1
            try:
                self._files.store(self._attributes[name], f"0x{command:016X}")
            except OSError as error:
                raise HostError(
                    f"buffer {self.label}: {name} of bytes {start} to {end}: {error.strerror}; see "
                    "dmesg, and load u-dma-buf again"
                ) from error

    def close(self) -> None:
        """Unmap and close. Calling it again does nothing."""
        self._view = np.empty(0, np.uint8)
        self._opened.close()
