# SPDX-License-Identifier: Apache-2.0
"""Being told to stop: Ctrl-C and SIGTERM end a command in the same orderly way.

`kill`, batch systems and container runtimes send SIGTERM, which by default ends Python at once: no
`finally` runs, temporary files stay and worker processes live on. A signal that was ignored when
the process started stays ignored: that is how a shell keeps Ctrl-C, meant for the foreground job,
away from a job in the background.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Terminated(KeyboardInterrupt):
    """SIGTERM arrived. All that cleans up after Ctrl-C cleans up after this as well."""


class Stop:
    """The signal that came while signals were deferred; `number` is None before it comes."""

    number: int | None = None

    def error(self, message: str) -> KeyboardInterrupt:
        """The exception to raise for the signal: Terminated for SIGTERM."""
        return Terminated(message) if self.number == signal.SIGTERM else KeyboardInterrupt(message)


def raise_on_sigterm() -> None:
    """Let SIGTERM raise `Terminated` from here on, as Ctrl-C raises KeyboardInterrupt.

    Changes nothing where SIGTERM is ignored or has another handler. Call it in the main thread.
    """

    def terminate(number: int, frame: FrameType | None) -> None:
        raise Terminated

    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, terminate)


@contextmanager
def deferred() -> Iterator[Stop]:
    """Note SIGINT and SIGTERM instead of letting them interrupt what must not be cut in half.

    The body looks at `number` where it may stop. A signal after its last look is not lost: it
    raises when the body has ended. Outside the main thread, which alone receives signals, nothing
    is ever noted.
    """
    stop = Stop()

    def note(number: int, frame: FrameType | None) -> None:
        stop.number = number

    before = {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            # None: a handler that was not installed from Python, and could not be put back.
            if signal.getsignal(number) not in (signal.SIG_IGN, None):
                before[number] = signal.signal(number, note)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if stop.number:
        raise stop.error("")
