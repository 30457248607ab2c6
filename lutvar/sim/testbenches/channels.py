# SPDX-License-Identifier: Apache-2.0
"""The memory's ends of AXI channels: one that takes, one that answers."""

import random
from typing import Any


class Channel:
    """Pins of one AXI channel that the accelerator drives, checked to stay until taken."""

    def __init__(self, dut: Any, prefix: str, payload: tuple[str, ...]) -> None:
        self.name = prefix
        self._valid, self._ready = (getattr(dut, f"{prefix}{n}") for n in ("valid", "ready"))
        self._payload = [getattr(dut, f"{prefix}{n}") for n in payload]
        self.open = False
        self._waiting: tuple[int, ...] | None = None

    def take(self) -> tuple[int, ...] | None:
        """At a clock edge: the payload that moves, or None."""
        if not self._valid.value:
            assert self._waiting is None, f"{self.name}valid fell before {self.name}ready"
            return None
        now = tuple(int(pin.value) for pin in self._payload)
        assert self._waiting in (None, now), f"{self.name} changed its offer before it was taken"
        self._waiting = None if self.open else now
        return now if self.open else None

    def drive(self, ready: bool) -> None:
        """Set READY; transfers count only while it is high."""
        if ready != self.open:
            self.open = ready
            self._ready.value = int(ready)

    def forget(self) -> None:
        """Forget the offer that waits, as in a reset."""
        self._waiting = None
        self.open = False
        self._ready.value = 0


class Answers:
    """Pins of one AXI channel that the memory drives (R or B)."""

    def __init__(self, dut: Any, prefix: str, payload: tuple[str, ...]) -> None:
        self._valid, self._ready = (getattr(dut, f"{prefix}{n}") for n in ("valid", "ready"))
        self._payload = [getattr(dut, f"{prefix}{n}") for n in payload]
        self.showing = False

    def taken(self) -> bool:
        """The answer that was shown has been taken."""
        return self.showing and bool(self._ready.value)

    def show(self, *values: int) -> None:
        """Offer an answer with these payload fields."""
        self.showing = True
        self._valid.value = 1
        for pin, value in zip(self._payload, values, strict=True):
            pin.value = value

    def hide(self) -> None:
        """Nothing is valid, and the payload is nonsense."""
        self.showing = False
        self._valid.value = 0
        for pin in self._payload:
            pin.value = random.getrandbits(len(pin))
