# SPDX-License-Identifier: Apache-2.0
"""Ctrl-C and SIGTERM: deferred where nothing may be cut in half, ignored where a shell says so."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from lutvar.stop import Terminated, deferred


@pytest.fixture
def ignored() -> Iterator[None]:
    """SIGINT as a job in the background has it."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(
    ("number", "kind"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Terminated)]
)
def test_a_signal_waits_until_it_is_asked_for(number: int, kind: type, ctrl_c: None) -> None:
    handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(KeyboardInterrupt, match="saved") as caught, deferred() as stop:
        assert stop.number is None
        os.kill(os.getpid(), number)
        assert stop.number == number
        raise stop.error("saved")
    assert caught.type is kind
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == handlers


def test_a_signal_that_nobody_asked_for_is_not_lost(ctrl_c: None) -> None:
    done = []
    with pytest.raises(KeyboardInterrupt), deferred():
        os.kill(os.getpid(), signal.SIGINT)
        done.append("all of it")
    assert done
    with pytest.raises(ZeroDivisionError), deferred():  # and hides no error
        os.kill(os.getpid(), signal.SIGINT)
        print(1 // 0)


def test_an_ignored_signal_stays_ignored(ignored: None) -> None:
    with deferred() as stop:
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
        os.kill(os.getpid(), signal.SIGINT)
    assert stop.number is None


def test_a_thread_leaves_the_handlers_alone(ctrl_c: None) -> None:
    seen = []

    def work() -> None:
        with deferred():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [signal.default_int_handler]


@pytest.mark.parametrize(
    ("before", "code"),
    [("", 143), ("signal.signal(signal.SIGTERM, signal.SIG_IGN)", 0)],
    ids=["default", "ignored"],
)
def test_sigterm_ends_a_command_as_ctrl_c_does(before: str, code: int) -> None:
    program = f"""
import os, signal
from lutvar.cli import main
{before}
def command(ctx):
    try:
        os.kill(os.getpid(), signal.SIGTERM)
    finally:
        print("cleaned up")
main.cli.invoke = command
main.main()
"""
    done = subprocess.run(
        [sys.executable, "-c", program, "doctor"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (code, "cleaned up\n"), done.stderr
    assert done.stderr.strip() == ("terminated" if code else "")
