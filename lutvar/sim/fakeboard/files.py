# SPDX-License-Identifier: Apache-2.0
"""The kernel's part on a fake board: nodes that act are connections to it.

Everything else stays as on a board: folders, attributes and the buffer are files of the tree.
"""

from __future__ import annotations

import os
import socket
import struct
from pathlib import Path

from lutvar.host.board.files import MARK, Files, Words
from lutvar.host.errors import BusError, HostError

from .wire import ANSWER, ERRNO, LONGEST, MAP, NO_ANSWER, REQUEST, STORE, STORED

#: A board that says nothing for so long has stopped. The golden model computes a whole program
#: between two accesses, which takes minutes for a large model.
SECONDS = 1800


class FakeWords:
    """Registers behind a connection."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection, self._number = connection, 0

    def _ask(self, operation: int, index: int, value: int) -> int:
        kind = ("read", "write")[operation]
        self._number += 1
        number, response, result = 0, 0, 0
        try:
            self._connection.send(REQUEST.pack(self._number, operation, index, value))
            while number != self._number:
                number, response, result = ANSWER.unpack(self._connection.recv(LONGEST))
        except (OSError, struct.error):  # an empty message: the board has ended; or time is up
            raise BusError(kind, 4 * index, None) from None
        if response:
            raise BusError(kind, 4 * index, None if response == NO_ANSWER else response)
        return int(result)

    def __getitem__(self, index: int) -> int:
        return self._ask(0, index, 0)

    def __setitem__(self, index: int, value: int) -> None:
        self._ask(1, index, value)

    def release(self) -> None:
        """See `Words`."""
        self._connection.close()


class FakeFiles(Files):
    """`Files` of a tree that a `FakeBoard` serves."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self._nodes: dict[int, str] = {}
        self._number = 0
        self._active = set(self.path(MARK).read_text(encoding="utf-8").split("\n")[1:])
        self._mask = int(self.path("sys/class/u-dma-buf-mask").read_text(encoding="utf-8"))

    def _connect(self, what: str) -> socket.socket:
        name = self.path(MARK).read_text(encoding="utf-8").split("\n")[0]
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for way in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):  # of the descriptor: `detach` keeps it
            connection.setsockopt(socket.SOL_SOCKET, way, struct.pack("ll", SECONDS, 0))
        try:
            connection.connect(f"\0{name}")
            connection.send(what.encode())
            error = ERRNO.unpack(connection.recv(LONGEST))[0]
        except (OSError, struct.error) as failure:
            connection.close()
            raise HostError(
                f"the fake board under {self.root} does not answer; start `lutvar fake-board`"
            ) from failure
        if error:
            connection.close()
            raise OSError(error, os.strerror(error), what)
        return connection

    def open(self, path: Path, flags: int) -> int:
        """See `Files`: a node that acts is a connection; its file shows who may open it."""
        fd = super().open(path, flags)
        node = str(path.relative_to(self.root))
        if node not in self._active:
            return fd
        os.close(fd)
        fd = self._connect(node).detach()
        self._nodes[fd] = node
        return fd

    def close(self, fd: int) -> None:
        """See `Files`."""
        self._nodes.pop(fd, None)
        super().close(fd)

    def store(self, fd: int, text: str) -> None:
        """See `Files`: the board has acted when it answers."""
        self._number += 1
        number, error = 0, 0
        try:
            os.write(fd, STORE.pack(self._number) + text.encode())
            while number != self._number:
                number, error = STORED.unpack(os.read(fd, LONGEST))
        except (OSError, struct.error):
            raise HostError(f"the fake board under {self.root} has ended or stopped") from None
        if error:
            raise OSError(error, os.strerror(error), self._nodes[fd])

    def words(self, fd: int, size: int, offset: int, start: int) -> Words:
        """See `Files`."""
        return FakeWords(self._connect(MAP + self._nodes[fd]))

    def dma_mask_bits(self, fd: int) -> int | None:
        """See `Files`."""
        return self._mask
