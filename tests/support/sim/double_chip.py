# SPDX-License-Identifier: Apache-2.0
"""An accelerator for a fake board without RTL: registers, and a program that inverts bytes."""

from __future__ import annotations

import numpy as np

from lutvar.contract.accelerator import AcceleratorConfig
from lutvar.contract.identity import accelerator_hash
from lutvar.contract.isa import Region
from lutvar.contract.register_map import BY_NAME, MAGIC, REGISTERS, VERSION
from lutvar.host.board.uio import UioTransport
from lutvar.host.device import Device
from lutvar.host.open import open_transport
from lutvar.sim.fakeboard.board import FakeBoard
from lutvar.sim.memory import BASE

NAMES = {r.offset: r.name for r in REGISTERS}
IO = 4096  #: bytes of region IO; the first half goes in, its inverse comes out in the second half
PROGRAM = bytes(range(64)) * 2
#: A model of three pages and a bit.
MODEL = (np.arange(12500) * 7 % 251).astype(np.uint8)


class DoubleChip:
    """`lutvar.sim.fakeboard.chip.Chip` that does what a test tells it.

    Attributes:
        takes: calls of `advance` that a program takes; None: it never ends.
        programs: bytes of the programs that were started, as the device saw them.
    """

    def __init__(self, config: AcceleratorConfig, size: int = 1 << 16, base: int = BASE) -> None:
        self.base, self.memory = base, np.zeros(size, np.uint8)
        digest = accelerator_hash(config)
        self.registers = {r.name: r.reset for r in REGISTERS} | {
            "MAGIC": MAGIC, "VERSION": VERSION,
            "HASH_LO": digest & 0xFFFF_FFFF, "HASH_HI": digest >> 32,
        }  # fmt: skip
        self.takes: int | None = 3
        self.left: int | None = None
        self.running = self.done = self.closed = False
        self.programs: list[bytes] = []
        self.log: list[str] = []
        self.answers: dict[str, int] = {}

    def address(self, name: str) -> int:
        """Offset in the memory that a pair of registers points to."""
        return (self.registers[f"{name}_LO"] | self.registers[f"{name}_HI"] << 32) - self.base

    def access(self, write: bool, offset: int, value: int) -> tuple[int, int]:
        name = NAMES.get(offset)
        if name is None:
            return 2, 0
        if name in self.answers:
            return self.answers[name], 0
        if write:
            self._write(name, value)
            return 0, 0
        if name == "CTRL":
            return 0, 0 if self.running else 1 << 2 | (not self.registers["ERROR"]) << 3
        if name == "ISR":
            return 0, int(self.done) | bool(self.registers["ERROR"]) << 1
        return 0, self.registers[name]

    def _write(self, name: str, value: int) -> None:
        self.log.append(name)
        if name == "SOFT_RESET":
            self.running = self.done = False
            self.registers["ERROR"] = 0
        elif name == "CTRL" and value & 1:
            start = self.address("PROGRAM")
            self.programs.append(self.memory[start : start + len(PROGRAM)].tobytes())
            self.running, self.left = True, self.takes
        elif name == "ISR":
            self.done = self.done and not value & 1
        elif BY_NAME[name].access.name == "RW":
            self.registers[name] = value

    def interrupt(self) -> bool:
        pending = int(self.done) | bool(self.registers["ERROR"]) << 1
        return bool(self.registers["GIE"] and pending & self.registers["IER"])

    def advance(self) -> bool:
        if self.running and self.left is not None:
            self.left -= 1
            if self.left <= 0:
                io, half = self.address("BASE2"), IO // 2
                self.memory[io + half : io + IO] = ~self.memory[io : io + half]
                self.running, self.done = False, True
        return self.running and self.left is not None

    def close(self) -> None:
        self.closed = True


def placed(device: Device, **more: str) -> None:
    """Place the model and regions that programs of a `DoubleChip` need."""
    device.place(MODEL, 64, IO, 64, **more)  # type: ignore[arg-type]


def invert(device: Device, seed: int, limit: int = 1_000_000) -> bool:
    """Run a program on random bytes; whether the inverse came out."""
    data = np.random.default_rng(seed).integers(0, 256, IO // 2).astype(np.uint8)
    device.write(Region.IO, 0, data)
    device.run(PROGRAM, limit)
    return np.array_equal(device.read(Region.IO, IO // 2, IO // 2), ~data)


def connect(board: FakeBoard, more: str = "") -> UioTransport:
    transport = open_transport(f"uio:lutvar?root={board.root}{more}")
    assert isinstance(transport, UioTransport)
    return transport
