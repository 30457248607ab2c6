# SPDX-License-Identifier: Apache-2.0
"""A made-up tree whose UIO device is the golden device: registers, interrupt, masking."""

from __future__ import annotations

import select
import socket
from pathlib import Path

from lutvar.host.board.files import Files
from lutvar.sim.golden_device import GoldenDevice

TREE = {
    "sys/class/uio/uio2/name": "lutvar",
    "sys/class/uio/uio2/maps/map0/addr": "0x00000000a4000000",
    "sys/class/uio/uio2/maps/map0/size": "0x0000000000010000",
    "sys/class/uio/uio2/maps/map0/offset": "0x0",
    "dev/uio2": "",
    "run/lock/none": "",
}


class ChipWords:
    """Mapped words over the device."""

    def __init__(self, chip: GoldenDevice) -> None:
        self._chip = chip

    def __getitem__(self, index: int) -> int:
        return self._chip.read32(4 * index)

    def __setitem__(self, index: int, value: int) -> None:
        self._chip.write32(4 * index, value)

    def release(self) -> None:
        pass


class ChipFiles(Files):
    """Files of a board whose accelerator is the golden device.

    /dev/uioN is one end of a socket pair: what the driver writes unmasks the line, what it reads is
    the count of interrupts. The kernel masks the line with each one.
    """

    def __init__(self, root: Path, chip: GoldenDevice) -> None:
        super().__init__(root)
        self.chip, self.count, self._enabled = chip, 0, False
        self._ours: socket.socket | None = None
        for name, text in TREE.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    def open(self, path: Path, flags: int) -> int:
        if path.name != "uio2":
            return super().open(path, flags)
        self.end()
        self._ours, theirs = socket.socketpair()
        return theirs.detach()

    def end(self) -> None:
        """Close our end."""
        if self._ours is not None:
            self._ours.close()
            self._ours = None

    def words(self, fd: int, size: int, offset: int, start: int) -> ChipWords:
        return ChipWords(self.chip)

    def readable(self, fd: int, seconds: float) -> bool:
        assert self._ours is not None
        while select.select([self._ours], [], [], 0)[0]:
            self._enabled = bool(int.from_bytes(self._ours.recv(4), "little"))
        if seconds:
            self.chip.wait(1_000_000)
        if self._enabled and self.chip.interrupt:
            self.count, self._enabled = self.count + 1, False
            self._ours.send(self.count.to_bytes(4, "little"))
        return bool(select.select([fd], [], [], 0)[0])
