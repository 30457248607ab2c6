# SPDX-License-Identifier: Apache-2.0
"""One owner of a device at a time: a lock that the kernel drops when its process ends.

It is named after the address of the registers, which all ways to the device share: UIO, XRT and
PYNQ exclude one another.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path

from .errors import DeviceInUse
from .files import Files

_FOLDERS = ("run/lock", "tmp")  #: the first that exists; both are writable for all users


class Lock:
    """An exclusive flock on a file that names its owner.

    A killed process leaves the file and no lock: the next owner takes it over.

    Args:
        files: where.
        registers: their address.
        name: of the device in errors, such as "uio4".

    Raises:
        DeviceInUse: another process has it.
    """

    def __init__(self, files: Files, registers: int, name: str) -> None:
        folder = next((f for f in _FOLDERS if files.path(f).is_dir()), _FOLDERS[-1])
        self.path = files.path(folder, f"lutvar-{registers:x}.lock")
        self._fd: int | None = _open(self.path)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            text = os.pread(self._fd, 32, 0).decode(errors="replace").strip()
            self.release()
            raise DeviceInUse(name, int(text) if text.isdecimal() else None) from None
        with contextlib.suppress(OSError):  # another user's file: locked, but without a name on it
            os.ftruncate(self._fd, 0)
            os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Give the device free. Calling it again does nothing."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def _open(path: Path) -> int:
    flags = os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        fd = os.open(path, flags | os.O_RDWR | os.O_CREAT, 0o666)
    except PermissionError:
        # Another user's file, or a folder where only its owner may open it with O_CREAT.
        return os.open(path, flags | os.O_RDONLY)
    with contextlib.suppress(PermissionError):
        os.fchmod(fd, 0o666)
    return fd
