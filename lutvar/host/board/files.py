# SPDX-License-Identifier: Apache-2.0
"""What transports ask of the operating system, in one class, so that a stand-in can take its place.

`Files` is the kernel's own interface. The fake board (`lutvar.sim.fakeboard`) replaces three of its
methods, because a plain file cannot act when it is written: opening a device node, mapping
registers, and storing into an attribute.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import select
from importlib import import_module
from pathlib import Path
from typing import Protocol

import numpy as np

from lutvar.host.transport import Bytes

from .errors import NoPermission

#: A tree that holds this file is a fake board's.
MARK = "lutvar-fake-board"
_FAKE = "lutvar.sim.fakeboard.files:FakeFiles"


class Words(Protocol):
    """Registers as 32-bit words; each access is one transfer on the bus."""

    def __getitem__(self, index: int, /) -> int: ...

    def __setitem__(self, index: int, value: int, /) -> None: ...

    def release(self) -> None:
        """Undo the mapping."""
        ...


class MappedWords:
    """Words of a mapping of device memory.

    A memoryview of C unsigned ints copies exactly `sizeof(unsigned)` bytes, which compiles to one
    32-bit load or store. NumPy would go through memcpy, which on aarch64 may read a word twice, and
    reading CTRL clears a bit; slices would be wide or unaligned accesses, which fault.

    Args:
        fd: of the device node. size: bytes of the mapping, from `offset` of the node.
        start: bytes from there to the first register.
    """

    def __init__(self, fd: int, size: int, offset: int, start: int) -> None:
        self._map = mmap.mmap(fd, size, offset=offset)
        self._bytes = memoryview(self._map)
        self._words = self._bytes[start : start + (size - start) // 4 * 4].cast("I")

    def __getitem__(self, index: int) -> int:
        return self._words[index]

    def __setitem__(self, index: int, value: int) -> None:
        self._words[index] = value

    def release(self) -> None:
        """See `Words`."""
        self._words.release()
        self._bytes.release()
        self._map.close()


class Files:
    """Files of devices under a root.

    Args:
        root: the folder that holds `sys`, `dev`, `proc` and `run`; "/" on a board.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    @staticmethod
    def under(root: Path) -> Files:
        """The files of a root: a board's, or those of a fake board that serves there."""
        if (root / MARK).exists():
            module, _, name = _FAKE.partition(":")
            return getattr(import_module(module), name)(root)
        return Files(root)

    def path(self, *parts: str) -> Path:
        """A path under the root."""
        return self.root.joinpath(*parts)

    def names(self, *parts: str) -> list[str] | None:
        """What a folder holds, sorted by number and name; None where it does not exist."""
        try:
            found = os.listdir(self.path(*parts))
        except (FileNotFoundError, NotADirectoryError):
            return None
        return sorted(found, key=lambda name: (len(name), name))

    def text(self, *parts: str) -> str | None:
        """Content of an attribute without its line end; None where it does not exist."""
        path = self.path(*parts)
        try:
            return path.read_text(encoding="utf-8", errors="replace").rstrip("\n\0")
        except PermissionError:
            raise NoPermission(path) from None
        except OSError:
            return None

    def open(self, path: Path, flags: int) -> int:
        """Open a device node or an attribute. Raises NoPermission, OSError."""
        try:
            return os.open(path, flags | os.O_CLOEXEC)
        except PermissionError:
            raise NoPermission(path) from None

    def close(self, fd: int) -> None:
        """Close what `open` returned."""
        os.close(fd)

    def store(self, fd: int, text: str) -> None:
        """Store into an attribute; the kernel has acted when this returns."""
        os.pwrite(fd, text.encode(), 0)

    def words(self, fd: int, size: int, offset: int, start: int) -> Words:
        """Map registers; see `MappedWords`."""
        return MappedWords(fd, size, offset, start)

    def memory(self, fd: int, size: int) -> Bytes:
        """Map a buffer, uint8 [size]; the array keeps the mapping alive."""
        return np.frombuffer(mmap.mmap(fd, size), np.uint8)

    def dma_mask_bits(self, fd: int) -> int | None:
        """Bits of a u-dma-buf device's DMA mask; None from versions that do not tell (before 4.7).

        U_DMA_BUF_IOCTL_GET_DEV_INFO is _IOR('U', 7, 24 bytes); flags, its first word, holds the
        bits in 7..0.
        """
        info = bytearray(24)
        try:
            fcntl.ioctl(fd, 2 << 30 | len(info) << 16 | ord("U") << 8 | 7, info)
        except OSError:
            return None
        return info[0]

    def readable(self, fd: int, seconds: float) -> bool:
        """Wait until a file can be read; False when the time was up before."""
        poll = select.poll()
        poll.register(fd, select.POLLIN | select.POLLERR)
        return bool(poll.poll(max(0, round(seconds * 1000))))
