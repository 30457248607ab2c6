# SPDX-License-Identifier: Apache-2.0
"""Turns: in the order of asking, again by the same thread, and none after a stop."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from lutvar.host.turns import Stopped, Turns

SOON = 20.0  #: seconds after which something will not happen any more


def started(work: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + SOON
    while not true():
        assert time.monotonic() < end
        time.sleep(0.001)


def test_whoever_asks_first_is_next() -> None:
    """Also before the thread that had its turn and asks again at once."""
    turns, order = Turns(), []

    def work(name: str) -> None:
        for _ in range(3):
            with turns as waited:
                assert waited >= 0
                order.append(name)

    threads = []
    with turns:
        for i, name in enumerate("abc"):
            threads.append(started(lambda name=name: work(name)))  # type: ignore[misc]
            until(lambda i=i: turns.waiting == i + 1)  # type: ignore[misc]
    for thread in threads:
        thread.join(SOON)
    assert order[:3] == ["a", "b", "c"] and sorted(order) == sorted("abc" * 3)
    assert turns.waiting == 0


def test_a_thread_may_take_its_turn_again() -> None:
    turns, done = Turns(), threading.Event()

    def ask() -> None:
        with turns:
            done.set()

    with turns as first:
        with turns as second:
            assert second == 0.0 <= first
        other = started(ask)
        until(lambda: turns.waiting == 1)
        assert not done.is_set()
    assert done.wait(SOON)
    other.join(SOON)


def test_after_a_stop_there_are_no_turns() -> None:
    """Who waits is told; who has the turn ends it; afterwards it can go on."""
    turns, told = Turns(), threading.Event()

    def wait() -> None:
        try:
            with turns:
                raise AssertionError("no turn may begin")
        except Stopped:
            told.set()

    with turns:
        thread = started(wait)
        until(lambda: turns.waiting == 1)
        turns.stop()
        assert told.wait(SOON) and turns.stopped
        with turns:  # still this thread's
            pass
    thread.join(SOON)
    with pytest.raises(Stopped, match="another thread has ended it"), turns:
        pass
    turns.resume()
    with turns:
        assert turns.waiting == 0
