# SPDX-License-Identifier: Apache-2.0
"""The uio transport against the exported Verilog behind a fake board."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from lutvar.contract.register_map import BY_NAME
from lutvar.host import AcceleratorError, IncompatibleDevice, MissedInterrupt
from lutvar.host.board.buffer import Direction
from lutvar.host.board.udmabuf import DmaBuffer
from lutvar.host.device import Device
from lutvar.host.open import open_transport
from lutvar.host.session import Session
from lutvar.quant.golden.transformer import GoldenTransformer
from lutvar.quant.var.passes import generate_passes
from lutvar.sim.device import MemoryTiming
from lutvar.sim.fakeboard.board import FakeBoard
from lutvar.sim.fakeboard.chip import VerilatedChip, simulated_chip
from support.sim.device_rig import (
    BUILD,
    CONFIG,
    FAST,
    MEMORY,
    digits,
    exported,
    image_step,
    packed,
    same,
)

pytestmark = pytest.mark.verilator


@pytest.fixture(scope="module")
def verilog(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    return exported(shared / "accelerator").verilog


@pytest.fixture
def board(verilog: Path, tmp_path: Path) -> Iterator[FakeBoard]:
    BUILD.mkdir(parents=True, exist_ok=True)
    with (BUILD / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        chip = simulated_chip(verilog, MEMORY, BUILD, FAST)
    with FakeBoard(chip, tmp_path / "board") as board:
        yield board


def session(board: FakeBoard) -> Session:
    return Session.open(f"uio:lutvar?root={board.root}", packed(digits().transformer))


def step(seed: int) -> object:
    return image_step(np.random.default_rng(seed), 0, 3, 0, 1, width=128, guided=False)


def right(opened: Session, seed: int) -> bool:
    """Whether a pass of one token gives what the golden model gives."""
    steps = [step(seed)]
    expected = GoldenTransformer(digits().transformer).run(steps)  # type: ignore[arg-type]
    return same(opened.transformer.run(steps), expected)  # type: ignore[arg-type]


def test_images_are_those_of_the_golden_model(board: FakeBoard) -> None:
    """A whole image, to the last bit, with a memory that rests now and then."""
    chip = board.chip
    assert isinstance(chip, VerilatedChip)
    chip.device.set_timing(MemoryTiming((4, 40), stall=0.05, seed=3))
    loaded = digits().loaded
    arguments = ([3], [1], loaded.info.cfg, loaded.info.top_k, loaded.info.top_p)
    golden = GoldenTransformer(digits().transformer)
    expected = generate_passes(loaded.var, loaded.vqvae, golden, *arguments)
    with session(board) as opened:
        result = generate_passes(loaded.var, loaded.vqvae, opened.transformer, *arguments)
        assert not opened.device.missed_interrupts
    assert np.array_equal(result.images_BCHW.numpy(), expected.images_BCHW.numpy())
    assert [t.tolist() for t in result.tokens] == [t.tolist() for t in expected.tokens]
    assert not chip.device.violations and board.interrupts.count >= 4


def test_faults_of_the_line_the_memory_and_the_bitstream(
    board: FakeBoard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Spurious and lost interrupts, a refused burst, a forgotten sync; then all is right again."""
    chip = board.chip
    assert isinstance(chip, VerilatedChip)
    with session(board) as opened:
        assert right(opened, 1)
        board.interrupts.fire()
        assert right(opened, 2)
        board.interrupts.lose = 1000
        with pytest.warns(MissedInterrupt):
            assert right(opened, 3)
        assert opened.device.missed_interrupts == 1
        board.interrupts.lose = 0
        chip.device.inject_error("wgt", chip.base, chip.base + (1 << 20))
        with pytest.raises(AcceleratorError, match="refused a read of m_axi_wgt at 0x500000"):
            right(opened, 4)
        chip.device.clear_error("wgt")
        opened.device.soft_reset()
        assert right(opened, 5)
        sync = DmaBuffer._sync

        def forgetful(self: DmaBuffer, name: str, start: int, end: int, way: Direction) -> None:
            if way is not Direction.FROM_DEVICE or end - start < 256:
                sync(self, name, start, end, way)

        monkeypatch.setattr(DmaBuffer, "_sync", forgetful)
        assert not right(opened, 6)
        monkeypatch.undo()
        assert right(opened, 6)
    access = chip.access

    def other(write: bool, offset: int, value: int) -> tuple[int, int]:
        response, found = access(write, offset, value)
        return response, found ^ (offset == BY_NAME["HASH_LO"].offset)

    monkeypatch.setattr(chip, "access", other)
    with pytest.raises(IncompatibleDevice, match="load the bitstream of small-fp4"):
        session(board)


_CHILD = """
import sys
import time
from pathlib import Path
from lutvar.contract.accelerator import load_accelerator
from lutvar.host.compile.packed import PackedTransformer
from lutvar.host.session import Session
from lutvar.contract.passes import ImageStep
import numpy as np
config = load_accelerator("small-fp4")
packed = PackedTransformer.load(sys.argv[2], config)
session = Session.open("uio:lutvar?root=" + sys.argv[1], packed)
x = np.zeros((16, 128), np.float32)
print("running", flush=True)
while True:
    session.transformer.run([ImageStep(0, 3, 14, x, x, 1.5)])
"""


def test_a_driver_that_is_killed(board: FakeBoard, tmp_path: Path) -> None:
    """In the middle of a pass; the next one finds its model in place, and right results."""
    image = tmp_path / "digits.img"
    packed(digits().transformer).save(image)
    child = subprocess.Popen(
        [sys.executable, "-c", _CHILD, str(board.root), str(image)], stdout=subprocess.PIPE,
        text=True, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert child.stdout is not None and child.stdout.readline() == "running\n"
    count = board.interrupts.count
    while board.interrupts.count < count + 1 or not board._active:
        assert child.poll() is None
        time.sleep(0.001)
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
    board.caches.log.clear()
    with session(board) as opened:
        assert right(opened, 7)
    placed = [size for name, _, size, _ in board.caches.log if name == "sync_for_device"]
    assert max(placed) < len(opened.transformer.packed.image)


def test_a_session_leaves_the_device_idle(board: FakeBoard) -> None:
    """Ctrl-C in the middle of a program; the line is quiet and the device idle afterwards."""
    with pytest.raises(KeyboardInterrupt), session(board) as opened:

        def interrupted(_amount: float) -> bool:
            raise KeyboardInterrupt

        opened.transport.wait = interrupted  # type: ignore[assignment]
        right(opened, 1)
    transport = open_transport(f"uio:lutvar?root={board.root}")
    ctrl, gie = (transport.read32(BY_NAME[name].offset) for name in ("CTRL", "GIE"))
    assert ctrl & 1 << 2 and not gie
    with Device(transport, CONFIG):
        pass
    transport.close()
