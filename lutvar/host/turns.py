# SPDX-License-Identifier: Apache-2.0
"""Whose turn it is: several threads use one device, one at a time, in the order in which they ask.

A turn is what must not be torn apart: inputs of a program, its run, its outputs (regions are shared
by all programs). Work of the host belongs outside, where another thread has its turn meanwhile.

    with device.turns as waited:
        device.write(Region.IO, 0, inputs)
        device.run(program, limit)
        outputs = device.read(Region.IO, at, size)
"""

from __future__ import annotations

import threading
import time
from collections import deque
from types import TracebackType

from .errors import HostError


class Stopped(HostError):
    """A thread may not use the device any more: another one has failed, or was interrupted."""


class Turns:
    """A lock that is fair, that a thread may take again, and that can be closed to all.

    A lock of the library goes to whoever asks first after its release, which may be the thread that
    released it; here that thread goes to the end of the queue.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._queue: deque[object] = deque()
        self._owner: int | None = None
        self._depth = 0
        self._stopped = False

    def __enter__(self) -> float:
        """Wait for the turn; returns the seconds that it took. Raises Stopped."""
        me = threading.get_ident()
        if self._owner == me:  # nobody else makes it so
            self._depth += 1
            return 0.0
        started, place = time.monotonic(), object()
        with self._changed:
            self._queue.append(place)
            try:
                self._changed.wait_for(
                    lambda: self._stopped or (self._owner is None and self._queue[0] is place)
                )
                if self._stopped:
                    raise Stopped("the device is not used any more: another thread has ended it")
                self._owner, self._depth = me, 1
            finally:
                self._queue.remove(place)
                self._changed.notify_all()  # the next one may be the first now
        return time.monotonic() - started

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave the device to the next one."""
        self._depth -= 1
        if self._depth:
            return
        with self._changed:
            self._owner = None
            self._changed.notify_all()

    @property
    def waiting(self) -> int:
        """Threads that wait for their turn."""
        return len(self._queue)

    @property
    def stopped(self) -> bool:
        """No turn begins any more, and a program that runs is to be aborted."""
        return self._stopped

    def stop(self) -> None:
        """Let no turn begin any more: threads that wait or ask later get Stopped."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def resume(self) -> None:
        """Undo `stop`, once all threads that it was for have ended."""
        with self._changed:
            self._stopped = False
