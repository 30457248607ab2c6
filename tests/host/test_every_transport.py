# SPDX-License-Identifier: Apache-2.0
"""The same driver and the same tests on every transport that there is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from lutvar.contract.accelerator import load_accelerator
from lutvar.contract.isa import INSTRUCTION_BYTES, PROGRAM_HEADER, Region
from lutvar.contract.register_map import BY_NAME, DeviceError
from lutvar.host import AcceleratorError, BadInput, Device, IncompatibleDevice, ProgramTimeout
from lutvar.host.board.selftest import SelfTest
from lutvar.host.board.unit_programs import tile_program
from lutvar.host.open import OPENERS, open_transport
from lutvar.host.session import Session
from lutvar.host.transport import MemoryTransport
from lutvar.quant.golden.transformer import GoldenTransformer
from lutvar.sim.device import MemoryTiming, VerilatedDevice
from lutvar.sim.fakeboard.board import FakeBoard
from lutvar.sim.fakeboard.chip import GoldenChip
from lutvar.sim.golden_device import GoldenDevice
from lutvar.sim.transport import SimulatedMemory
from support.board.stand_ins import KINDS, MEMORY, made
from support.sim.device_rig import BUILD, exported, image_step, packed, random_transformer, same

CONFIG = load_accelerator("small-fp4")
SIM = pytest.param("sim", marks=(pytest.mark.verilator, pytest.mark.slow))
TILE = tile_program(CONFIG, 5)


def test_no_transport_is_forgotten() -> None:
    here = {kind.partition("-")[0] for kind in ("golden", "uio", *KINDS)} | {"sim"}
    # A replay has no device of its own, and `auto` is another way to `uio`.
    assert set(OPENERS) - {"replay", "auto"} == here


@pytest.fixture(params=["golden", SIM, "uio", *KINDS])
def transport(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[MemoryTransport]:
    kind = request.param
    if kind == "golden":
        yield open_transport(f"golden:small-fp4?memory={MEMORY >> 20}")
    elif kind == "sim":
        verilog = exported(tmp_path_factory.getbasetemp().parent / "verilog").verilog
        simulation = VerilatedDevice.from_verilog(
            verilog, MEMORY, build_dir=BUILD, timing=MemoryTiming((4, 12))
        )
        yield SimulatedMemory(simulation)
        simulation.close()
    elif kind == "uio":
        with FakeBoard(GoldenChip(GoldenDevice(CONFIG, size=MEMORY)), tmp_path) as board:
            found = open_transport(f"uio:lutvar?root={board.root}")
            yield found
            found.close()
    else:
        with made(kind, tmp_path, monkeypatch) as board:
            found = open_transport(board.url)
            yield found
            found.close()


def placed(transport: MemoryTransport) -> Device:
    """A driver with the memory of the tile's program."""
    device = Device(transport, CONFIG)
    device.open()
    sizes = [len(TILE.before[r]) for r in (Region.WORK, Region.IO, Region.CACHE)]
    device.place(TILE.before[Region.MODEL], *sizes)
    device.write(Region.IO, 0, TILE.before[Region.IO])
    return device


def results(device: Device) -> bytes:
    device.run(TILE.program, 1_000_000)
    return b"".join(device.read(*where).tobytes() for where in TILE.results.values())


@pytest.fixture(scope="module")
def right() -> bytes:
    return results(placed(GoldenDevice(CONFIG, size=MEMORY)))


def test_memory_reads_as_it_was_written(transport: MemoryTransport) -> None:
    rng, image = np.random.default_rng(1), np.zeros(1 << 14, np.uint8)
    transport.write(0, image)
    for _ in range(40):
        start = int(rng.integers(len(image)))
        piece = rng.integers(0, 256, int(rng.integers(0, 300)), np.uint8)[: len(image) - start]
        image[start : start + len(piece)] = piece
        transport.write(start, piece)
        start, count = int(rng.integers(len(image))), int(rng.integers(1, 300))
        assert np.array_equal(transport.read(start, count), transport.read(start, count))
        assert np.array_equal(
            transport.read(start, min(count, len(image) - start)), image[start : start + count]
        )
    assert np.array_equal(transport.read(0, len(image)), image)
    for start, count in ((-1, 2), (transport.size - 1, 2)):
        with pytest.raises(BadInput):
            transport.read(start, count)
        with pytest.raises(BadInput):
            transport.write(start, np.zeros(count, np.uint8))


def test_units(transport: MemoryTransport, right: bytes) -> None:
    """Twice in a row, with all results and the counters."""
    device = placed(transport)
    for _ in range(2):
        assert results(device) == right
    assert not device.missed_interrupts and device.register("PROGRAMS") == 2
    device.close()
    assert device.register("CTRL") >> 2 & 1 and not device.register("GIE")


def test_errors_and_what_follows(transport: MemoryTransport, right: bytes) -> None:
    """A refused header, a program outside of its window, another accelerator's; each is undone."""
    device = placed(transport)
    hash_at = next(f.low for f in PROGRAM_HEADER if f.name == "hash") // 8
    bad = bytearray(TILE.program)
    bad[hash_at] ^= 1
    with pytest.raises(AcceleratorError) as caught:
        device.run(bytes(bad), 100_000)
    assert caught.value.code is DeviceError.BAD_HEADER
    with pytest.raises(AcceleratorError):
        device.run(TILE.program, 100_000)  # the error is kept
    device.soft_reset()
    assert results(device) == right
    # The region ends before the tile's rows do.
    limit = BY_NAME["LIMIT2_LO"].offset
    transport.write32(limit, transport.read32(limit) - 64)
    with pytest.raises(AcceleratorError) as caught:
        device.run(TILE.program, 100_000)
    assert caught.value.code is DeviceError.OUTSIDE_VALUES
    device = placed(transport)
    assert results(device) == right
    with pytest.raises(IncompatibleDevice):
        Device(transport, load_accelerator("small-fp6")).open()
    assert results(device) == right


def test_a_deadline(transport: MemoryTransport, right: bytes) -> None:
    """A program that waits for what never comes, with the watchdog off; the next one is right."""
    device = placed(transport)
    transport.write32(BY_NAME["WATCHDOG"].offset, 0)
    stuck = bytearray(TILE.program)
    wait_attend = 2 * INSTRUCTION_BYTES + 4 + 2 * 4  # of FRONT, behind opcode, 0 and index
    stuck[wait_attend] = 1
    with pytest.raises(ProgramTimeout, match="the device still runs it"):
        device.run(bytes(stuck), 20_000)
    device.soft_reset()
    assert results(device) == right


def test_a_model(transport: MemoryTransport) -> None:
    """Two images over three scales, guided, through a session."""
    model, rng = random_transformer(), np.random.default_rng(3)
    golden, position = GoldenTransformer(model), 0
    with Session(transport, packed(model), slots=2) as session:
        for tokens in (1, 4, 9):
            steps = [image_step(rng, s, s, position, tokens) for s in range(2)]
            assert same(session.transformer.run(steps), golden.run(steps))
            position += tokens


def test_selftest(transport: MemoryTransport) -> None:
    reference = SelfTest(GoldenDevice(CONFIG, size=MEMORY), CONFIG)
    assert reference.run(1, only=("units",)).passed
    test = SelfTest(transport, CONFIG, references=reference.recorded)
    verdict = test.run(1)
    assert verdict.passed, verdict.outcomes
