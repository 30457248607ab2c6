# SPDX-License-Identifier: Apache-2.0
"""The fake board itself: serves the nodes of its tree, and lets the accelerator's time pass."""

from __future__ import annotations

import errno
import os
import secrets
import selectors
import socket
import threading
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from typing_extensions import Self

from lutvar.host.errors import HostError

from .caches import Caches
from .chip import Chip
from .interrupts import InterruptLine
from .tree import Names, make_tree
from .wire import ANSWER, COUNT, ERRNO, LONGEST, MAP, REQUEST, STORE, STORED


class BoardFailure(HostError):
    """The accelerator behind a fake board has failed, and the board has ended with it."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(f"the fake board has ended, {type(cause).__name__}: {cause}")


@dataclass
class _Node:
    """An open node: a connection, and what to do with a message."""

    connection: socket.socket
    handle: Callable[[bytes], None]
    path: str = ""


class FakeBoard:
    """A board whose device is a `Chip`, and whose kernel is this object.

    Args:
        chip: closed with the board.
        root: folder for the tree.
        names: of its devices.

    Attributes:
        interrupts, caches: to look at, and to provoke faults.
        accesses: register accesses so far.
        failure: of the accelerator, which has ended the board; None while there is none.
    """

    def __init__(self, chip: Chip, root: Path, names: Names | None = None) -> None:
        self.chip, self.root, self.names = chip, root, names or Names()
        self.failure: Exception | None = None
        address = f"lutvar-fake-board-{os.getpid()}-{secrets.token_hex(8)}"
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listener.bind(f"\0{address}")
        self._listener.listen()
        processor = make_tree(root, self.names, chip.base, len(chip.memory), address)
        self.interrupts, self.caches = InterruptLine(chip.interrupt), Caches(processor, chip.memory)
        self.accesses = 0
        self._nodes: dict[int, _Node] = {}
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._stop_in, self._stop_out = socket.socketpair()
        self._selector.register(self._stop_out, selectors.EVENT_READ)
        self._thread: threading.Thread | None = None
        self._active, self._stopped, self._closed = True, False, False

    def __enter__(self) -> Self:
        """Serve in a thread. Leaving raises BoardFailure if the accelerator has ended the board."""
        self._thread = threading.Thread(target=self._serve_aside, name="fake board", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
        if self.failure is not None and error is None:
            raise BoardFailure(self.failure) from self.failure

    def close(self) -> None:
        """End serving and free the chip. The tree stays, without anybody behind it.

        Calling it again does nothing.
        """
        with suppress(OSError):
            self._stop_in.send(b"x")
        if self._thread is not None:
            self._thread.join()
        if self._closed:
            return
        self._closed = True
        self._hang_up()
        with ExitStack() as closing:
            for thing in (self._stop_in, self._stop_out, self._selector, self.chip):
                closing.callback(thing.close)

    def serve(self) -> None:
        """Serve until `close`, or until an exception: Ctrl-C, or what the accelerator raises.

        Nobody waits for an answer any more when this returns or raises: connections are closed.
        """
        try:
            self._serve()
        finally:
            self._hang_up()

    def _serve_aside(self) -> None:
        try:
            self.serve()
        except Exception as error:
            self.failure = error

    def _hang_up(self) -> None:
        """Close every connection and take no more: a driver that waits reads an end."""
        if self._listener.fileno() >= 0:
            self._selector.unregister(self._listener)
            self._listener.close()
        for node in list(self._nodes.values()):
            self._drop(node)

    def _serve(self) -> None:
        while not self._stopped:
            ready = self._selector.select(0 if self._active else None)
            sockets = [key.fileobj for key, _ in ready]
            if self._stop_out in sockets:
                self._stopped = True
            if self._listener in sockets:
                self._accept()
            for one in sockets:
                node = self._nodes.get(one.fileno())  # type: ignore[union-attr]
                if node is not None:
                    self._receive(node)
            if self._active:
                self._active = self.chip.advance()
                self.interrupts.look()

    def _accept(self) -> None:
        connection, _ = self._listener.accept()
        node = _Node(connection, lambda message: self._open(node, message.decode()))
        self._nodes[connection.fileno()] = node
        self._selector.register(connection, selectors.EVENT_READ)

    def _receive(self, node: _Node) -> None:
        try:
            message = node.connection.recv(LONGEST, socket.MSG_DONTWAIT)
            if message:
                node.handle(message)
        except BlockingIOError:
            return  # `_settle` was faster
        except OSError:
            message = b""  # whoever had it open was killed
        if not message:
            self._drop(node)

    def _drop(self, node: _Node) -> None:
        number = node.connection.fileno()
        self._nodes.pop(number, None)
        self.interrupts.listeners.pop(number, None)
        self._selector.unregister(node.connection)
        node.connection.close()

    def _open(self, node: _Node, path: str) -> None:
        """The first message of a connection."""
        node.path = path
        number = node.connection.fileno()
        result = 0
        if path == self.names.node:
            node.handle = lambda message: self.interrupts.control(COUNT.unpack(message)[0])
            self.interrupts.listeners[number] = lambda count: self._notify(node, count)
        elif path == MAP + self.names.node:
            node.handle = lambda message: self._access(node, *REQUEST.unpack(message))
        elif path in self.names.attributes:
            name = path.rpartition("/")[2]
            node.handle = lambda message: self._store(node, name, message)
        else:
            result = errno.ENODEV
        node.connection.send(ERRNO.pack(result))

    def _notify(self, node: _Node, count: int) -> None:
        with suppress(OSError):
            node.connection.send(COUNT.pack(count))

    def _store(self, node: _Node, attribute: str, message: bytes) -> None:
        (number,) = STORE.unpack_from(message)
        error = self.caches.command(attribute, message[STORE.size :].decode())
        node.connection.send(STORED.pack(number, error))

    def _access(self, node: _Node, number: int, operation: int, index: int, value: int) -> None:
        # A write to the UIO device before this access has acted by now, as in a kernel.
        for other in list(self._nodes.values()):
            if other.path == self.names.node:
                self._settle(other)
        self.accesses += 1
        response, value = self.chip.access(bool(operation), 4 * index, value)
        self._active = self._active or bool(operation)
        self.interrupts.look()
        node.connection.send(ANSWER.pack(number, response, value))

    def _settle(self, node: _Node) -> None:
        with suppress(OSError):
            while message := node.connection.recv(LONGEST, socket.MSG_DONTWAIT):
                node.handle(message)
