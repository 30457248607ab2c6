# SPDX-License-Identifier: Apache-2.0
"""The transformer's host side without a simulation, and the simulated memory's bounds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from lutvar.contract.accelerator import load_accelerator
from lutvar.contract.isa import Region
from lutvar.contract.passes import ImageStep
from lutvar.contract.register_map import BY_NAME
from lutvar.contract.shape import TransformerShape
from lutvar.host import BadInput, BusError, Device, DeviceTransformer, PassReport
from lutvar.host.compile.errors import CompileError
from lutvar.host.compile.model_layout import ModelLayout
from lutvar.host.compile.packed import PackedTransformer
from lutvar.host.compile.program import Program
from lutvar.host.transport import as_bytes
from lutvar.sim.device import SimulationTimeout
from lutvar.sim.transport import SimulatedMemory
from support.host.transport_double import TransportDouble

CONFIG = load_accelerator("small-fp4")
SHAPE = TransformerShape(128, 1, 2, 512, 96, (1, 2))


def packed() -> PackedTransformer:
    layout = ModelLayout.of(SHAPE, CONFIG, range(3))
    image = np.zeros(layout.size, np.uint8)
    return PackedTransformer(layout, image, (0,) * len(layout.layers), 1e-6, 2, {})


def step(slot: int = 0, position: int = 0, tokens: int = 1, fill: float = 1.0) -> ImageStep:
    x = np.full((tokens, 128), fill, np.float32)
    return ImageStep(slot, 1, position, x, x + 1, 0.5)


def opened(**more: Any) -> tuple[TransportDouble, DeviceTransformer]:
    double = TransportDouble(CONFIG, size=1 << 22)
    device = Device(double, CONFIG)
    device.open()
    return double, DeviceTransformer(device, packed(), 2, **more)


def test_a_pass() -> None:
    """Embeddings go in, the program runs, logits come out of where the plan has them."""
    reports: list[PassReport] = []
    double, transformer = opened(on_pass=reports.append, check=True)
    steps = [step(0, fill=3), step(1, 1, 4, fill=5)]
    compiled = transformer.compile(steps)
    io = transformer.device._regions.starts[Region.IO]  # type: ignore[union-attr]

    def start(double: TransportDouble) -> None:
        rows = double.memory[io : io + 10 * 512].view(np.float32).reshape(10, 128)
        assert sorted(rows[:, 0].tolist()) == [3, 4, 5, 5, 5, 5, 6, 6, 6, 6]
        at = io + compiled.logits_first
        logits = np.arange(5 * 128, dtype=np.float32).view(np.uint8)
        double.memory[at : at + len(logits)] = logits
        double.finish(1000)

    double.started = start
    first, second = transformer.run(steps)
    np.testing.assert_array_equal(first, np.arange(96, dtype=np.float32)[None])
    assert second.shape == (4, 96) and second[3, 95] == 4 * 128 + 95
    (report,) = reports
    assert report.steps == compiled.rows.steps and report.received == 5 * 128 * 4
    raw = compiled.program.encode()
    assert report.sent == 10 * 512 + len(raw)
    assert report.instructions == len(compiled.program.instructions)
    at = (double.registers["PROGRAM_LO"] | double.registers["PROGRAM_HI"] << 32) - double.base
    assert Program.decode(double.memory[at : at + len(raw)].tobytes()).model_hash == packed().hash


def test_equal_passes_are_compiled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    _, transformer = opened()
    compiled = transformer.compile([step()])
    monkeypatch.setattr(transformer.compiler, "compile", lambda *_a, **_k: pytest.fail("again"))
    assert transformer.compile([step(fill=9.0)]) is compiled
    transformer.compile([step(slot=1)])  # another slot: other addresses in the same program
    with pytest.raises(pytest.fail.Exception):
        transformer.compile([step(position=1, tokens=4)])


def test_steps_that_do_not_fit() -> None:
    double, transformer = opened()
    with pytest.raises(CompileError, match="cache slot"):
        transformer.run([step(0), step(0)])
    with pytest.raises(CompileError, match="5 tokens"):
        transformer.run([step(0, 1, 5)])
    assert not double.written("CTRL")


def test_a_memory_without_room_for_the_slots() -> None:
    device = Device(TransportDouble(CONFIG, size=1 << 20), CONFIG)
    device.open()
    with pytest.raises(BadInput, match="fewer images at a time"):
        DeviceTransformer(device, packed(), 500)


class Board:
    """What `SimulatedMemory` needs of a simulation."""

    def __init__(self) -> None:
        self.memory = np.zeros(256, np.uint8)
        self.cycles, self.closed, self.answer = 5, 0, 0
        self.silent = False

    def reg_read(self, offset: int) -> tuple[int, int]:
        if self.silent:
            raise SimulationTimeout("no answer")
        return offset * 2, self.answer

    def reg_write(self, _offset: int, _value: int) -> int:
        if self.silent:
            raise SimulationTimeout("no answer")
        return self.answer

    def run(self, cycles: int) -> bool:
        self.cycles += cycles
        return cycles > 10

    def close(self) -> None:
        self.closed += 1


def test_simulated_memory_is_bounded() -> None:
    board = Board()
    memory = SimulatedMemory(board)  # type: ignore[arg-type]
    assert (memory.base, memory.size) == (0, 256)
    memory.write(250, np.arange(6, dtype=np.uint8))
    copy = memory.read(250, 6)
    assert copy.tolist() == list(range(6))
    copy[:] = 9
    assert memory.read(255, 1)[0] == 5  # what was handed out is a copy
    memory.read(256, 0)
    for offset, count in ((250, 7), (-1, 1), (256, 1), (0, 257)):
        with pytest.raises(BadInput, match="outside the device's memory of 256 bytes"):
            memory.read(offset, count)
        with pytest.raises(BadInput, match="outside the device's memory"):
            memory.write(offset, np.zeros(count, np.uint8))
    with pytest.raises(BadInput):
        memory.read(10, -1)
    assert not memory.wait(10) and memory.wait(11) and memory.now() == 26
    memory.close()
    assert board.closed == 1


def test_register_accesses_that_are_refused() -> None:
    board = Board()
    memory = SimulatedMemory(board)  # type: ignore[arg-type]
    assert memory.read32(0x40) == 0x80
    memory.write32(0x40, 1)
    offset = BY_NAME["MAGIC"].offset
    for answer, name in ((2, "SLVERR"), (3, "DECERR")):
        board.answer = answer
        with pytest.raises(BusError, match=f"read of register offset 0x040 was .* {name}") as read:
            memory.read32(offset)
        error = read.value
        assert (error.operation, error.address, error.resp) == ("read", offset, answer)
        with pytest.raises(BusError, match=f"write of .* {name}"):
            memory.write32(offset, 1)
    board.silent = True
    for access in (lambda: memory.read32(8), lambda: memory.write32(8, 1)):
        with pytest.raises(BusError, match="0x008: no answer; check") as silent:
            access()
        assert silent.value.resp is None


def test_as_bytes() -> None:
    assert as_bytes(b"\x01\x02").tolist() == [1, 2]
    assert as_bytes(np.array([[1.0], [2.0]], np.float32)[::-1]).tolist() == [
        0, 0, 0, 64, 0, 0, 128, 63,
    ]  # fmt: skip
