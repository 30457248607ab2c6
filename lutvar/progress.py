# SPDX-License-Identifier: Apache-2.0
"""Progress on standard error: a bar on a terminal, now and then a line in a log file."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Protocol

from typing_extensions import Self

#: Seconds between two lines in a log file.
PAUSE = 15.0


class Bar(Protocol):
    """What `progress_bar` returns: the part of a tqdm bar that lutvar uses."""

    total: float | None
    n: float

    def update(self, n: float = 1) -> bool | None: ...

    def set_description(self, desc: str | None = None) -> None: ...

    def set_postfix_str(self, s: str = "") -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


class _Lines:
    """A bar for what is no terminal: whole lines, no carriage returns."""

    def __init__(self, desc: str, total: float | None, initial: float, unit: str) -> None:
        self.total, self.n = total, initial
        self._desc, self._unit, self._postfix = desc, unit, ""
        self._began = self._written = time.monotonic()

    def update(self, n: float = 1) -> None:
        self.n += n
        now = time.monotonic()
        if now - self._written < PAUSE:
            return
        self._written = now
        of = "" if self.total is None else f" of {self.total:g}"
        postfix = f", {self._postfix}" if self._postfix else ""
        print(
            f"{self._desc}: {self.n:g}{of} {self._unit}s after {now - self._began:.0f} s{postfix}",
            file=sys.stderr, flush=True,
        )  # fmt: skip

    def set_description(self, desc: str | None = None) -> None:
        self._desc = desc or ""

    def set_postfix_str(self, s: str = "") -> None:
        self._postfix = s

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        return None


class _Silent(_Lines):
    def update(self, n: float = 1) -> None:
        self.n += n


def progress_bar(
    desc: str,
    total: float | None = None,
    *,
    initial: float = 0,
    unit: str = "step",
    leave: bool = True,
    show: bool = True,
) -> Bar:
    """A progress bar as a context manager.

    Args:
        desc: what is being done.
        total: steps in all, None if that is not known yet (set the attribute later).
        initial: steps done before.
        unit: what a step is, singular.
        leave: keep the bar on the terminal when it is done.
        show: False for one that says nothing.
    """
    if not show:
        return _Silent(desc, total, initial, unit)
    if not sys.stderr.isatty():
        return _Lines(desc, total, initial, unit)
    from tqdm import tqdm

    bar: Bar = tqdm(desc=desc, total=total, initial=initial, unit=unit, leave=leave)
    return bar


def as_callback(bar: Bar) -> Callable[[int, int], None]:
    """A function of (done, total) that moves a bar."""

    def update(done: int, total: int) -> None:
        bar.total = total
        bar.update(done - bar.n)

    return update
