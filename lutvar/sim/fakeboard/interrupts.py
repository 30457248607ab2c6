# SPDX-License-Identifier: Apache-2.0
"""An interrupt line under uio_pdrv_genirq: counted, and masked by the kernel each time it comes."""

from __future__ import annotations

from collections.abc import Callable

Notify = Callable[[int], None]


class InterruptLine:
    """A level-sensitive line.

    Args:
        level: the line now.

    Attributes:
        count: interrupts so far. masked: the kernel takes none until somebody unmasks the line.
        lose: so many interrupts get lost between the line and whoever waits.
    """

    def __init__(self, level: Callable[[], bool]) -> None:
        self._level = level
        self.count, self.masked, self.lose = 0, False, 0
        self.listeners: dict[int, Notify] = {}

    def look(self) -> None:
        """Take an interrupt if the line is high; call it whenever the line may have changed."""
        if not self.masked and self._level():
            self.fire()

    def fire(self) -> None:
        """An interrupt comes, whether the device asked for it or not (a shared line)."""
        self.masked = True
        if self.lose:
            self.lose -= 1
            return
        self.count += 1
        for notify in list(self.listeners.values()):
            notify(self.count)

    def control(self, value: int) -> None:
        """What a write of 4 bytes to the UIO device does: 1 unmasks the line, 0 masks it."""
        self.masked = not value
        self.look()
