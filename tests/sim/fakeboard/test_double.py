# SPDX-License-Identifier: Apache-2.0
"""The uio transport on a fake board whose accelerator is a few lines of Python."""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from lutvar.contract.accelerator import load_accelerator
from lutvar.host import BusError, Device, IncompatibleDevice, MissedInterrupt, ProgramTimeout
from lutvar.host.board import uio as uio_module
from lutvar.host.board.errors import DeviceInUse, NoDevice, UnusableBuffer
from lutvar.host.board.uio import UioTransport
from lutvar.host.errors import BadInput, HostError
from lutvar.host.open import open_transport
from lutvar.sim.fakeboard.board import FakeBoard
from lutvar.sim.fakeboard.tree import Names
from support.sim.double_chip import (
    MODEL,
    NAMES,
    PROGRAM,
    DoubleChip,
    connect,
    invert,
    placed,
)

CONFIG = load_accelerator("small-fp4")


def test_what_was_found(board: FakeBoard, transport: UioTransport) -> None:
    assert transport.name == f"uio:lutvar ({board.root}/dev/uio4)"
    assert (transport.base, transport.size, transport.clock) == (
        0x500_0000_0000,
        1 << 16,
        "seconds",
    )
    # The device tree's clock is 20 kHz here; no deadline is under a second.
    assert transport.deadline(10) == 1.0 and transport.deadline(100_000) == 5.0


def test_programs(board: FakeBoard, chip: DoubleChip, transport: UioTransport) -> None:
    with Device(transport, CONFIG) as device:
        placed(device)
        for seed in range(5):
            assert invert(device, seed)
        assert chip.programs == [PROGRAM] * 5
        # A line that is unmasked while it is high interrupts once more.
        assert 5 <= transport.interrupts <= board.interrupts.count <= 10
        assert not device.missed_interrupts
        np.testing.assert_array_equal(chip.memory[: len(MODEL)], MODEL)
    assert not chip.registers["GIE"]


def test_one_owner_at_a_time(board: FakeBoard, transport: UioTransport) -> None:
    with pytest.raises(DeviceInUse, match=f"uio4 is in use by process {os.getpid()}; wait for it"):
        connect(board)
    transport.close()
    transport.close()
    connect(board).close()


def test_a_spurious_interrupt(board: FakeBoard, chip: DoubleChip, transport: UioTransport) -> None:
    """Left over, or of another device on the line: the results are never those of before."""
    with Device(transport, CONFIG) as device:
        placed(device)
        assert invert(device, 1)
        board.interrupts.fire()
        assert invert(device, 2)
        chip.takes = None
        access, looks = chip.access, []

        def early(write: bool, offset: int, value: int) -> tuple[int, int]:
            answer = access(write, offset, value)
            if write and NAMES[offset] == "CTRL":
                board.interrupts.fire()  # at once, long before the program is done
            if chip.running and not write and NAMES[offset] == "ISR":
                looks.append(answer)  # so the driver was woken, and has looked
                chip.left, board._active = 1, True
            return answer

        chip.access = early  # type: ignore[method-assign]
        assert invert(device, 3) and looks[0] == (0, 0)
        assert not device.missed_interrupts


def test_arming_forgets_what_has_come(board: FakeBoard, transport: UioTransport) -> None:
    """A start is not followed by the interrupt of before, and its own comes through."""
    board.interrupts.fire()
    transport.arm()
    transport.read32(0x40)  # the board has seen the unmasking by then
    assert not board.interrupts.masked and not transport.wait(0.01)
    board.interrupts.fire()
    assert transport.wait(5.0) and board.interrupts.masked


def test_a_lost_interrupt(board: FakeBoard, transport: UioTransport) -> None:
    with Device(transport, CONFIG) as device:
        placed(device)
        # Both: that of the program, and the one that the line raises when it is unmasked again.
        board.interrupts.lose = 1000
        with pytest.warns(MissedInterrupt, match="the device has finished, but its interrupt did"):
            assert invert(device, 1)
        assert device.missed_interrupts == 1
        board.interrupts.lose = 0
        assert invert(device, 2) and device.missed_interrupts == 1


def test_a_program_that_hangs(
    chip: DoubleChip, transport: UioTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uio_module, "LEAST_SECONDS", 0.2)
    with Device(transport, CONFIG) as device:
        placed(device)
        chip.takes = None
        with pytest.raises(ProgramTimeout, match=r"not finished after 0\.2 s; the device still"):
            invert(device, 1, limit=1000)
        device.soft_reset()
        chip.takes = 3
        assert invert(device, 2)


def test_another_bitstream(board: FakeBoard, chip: DoubleChip, transport: UioTransport) -> None:
    chip.registers["HASH_LO"] ^= 1
    with pytest.raises(IncompatibleDevice, match="load the bitstream of small-fp4"):
        Device(transport, CONFIG).open()
    assert not chip.log  # nothing was written to a stranger


def test_an_access_that_is_refused(chip: DoubleChip, transport: UioTransport) -> None:
    with pytest.raises(BusError, match="read of register offset 0x800 was answered with SLVERR"):
        transport.read32(0x800)
    chip.answers["SCRATCH"] = -1
    with pytest.raises(BusError, match="no answer; check that the clock runs"):
        transport.write32(0x7C, 1)


@pytest.mark.parametrize("offset", [1, 2, -4, 0x1_0000, 0xFFFE])
def test_registers_are_aligned_words(transport: UioTransport, offset: int) -> None:
    for access in (lambda: transport.read32(offset), lambda: transport.write32(offset, 1)):
        with pytest.raises(BadInput, match="offsets are multiples of 4 under 0x10000"):
            access()
    for value in (-1, 1 << 32):
        with pytest.raises(BadInput, match="it has 32 bits"):
            transport.write32(0x7C, value)


def test_memory_outside_the_buffer(transport: UioTransport) -> None:
    for offset, count in ((-1, 4), (65530, 7), (1 << 40, 1)):
        with pytest.raises(BadInput, match="outside the buffer 'lutvar-buffer' of 65536 bytes"):
            transport.read(offset, count)
        with pytest.raises(BadInput, match="outside the buffer 'lutvar-buffer' of 65536 bytes"):
            transport.write(offset, np.zeros(count, np.uint8))


@pytest.mark.parametrize(
    ("names", "base", "size", "error", "text"),
    [
        (Names(uio="other"), 0x1000, 1 << 16, NoDevice, "UIO device 'lutvar', only other, other0"),
        (Names(buffer="pool"), 0x1000, 1 << 16, NoDevice, "buffer', only pool; give one of these"),
        (Names(), 0x1020, 1 << 16, UnusableBuffer, "0x1020, which is no multiple of 64; align"),
        (Names(dma_mask=32), 0xFFFF_F000, 1 << 16, UnusableBuffer, "its DMA mask of 32 bits"),
    ],
)  # fmt: skip
def test_what_cannot_be_used(
    tmp_path: Path, names: Names, base: int, size: int, error: type[HostError], text: str
) -> None:
    with FakeBoard(DoubleChip(CONFIG, size, base), tmp_path, names) as board:
        with pytest.raises(error, match=text):
            connect(board)
        if names.buffer == "pool":
            connect(board, "&buffer=pool").close()


def test_the_board_that_is_there(tmp_path: Path) -> None:
    """`auto` looks for names, and chooses nothing where there are two."""
    names = Names(uio="lutvar-1", buffer="lutvar-pool")
    with FakeBoard(DoubleChip(CONFIG), tmp_path, names):
        said: list[str] = []
        transport = open_transport(f"auto?root={tmp_path}", say=said.append)
        assert transport.name.startswith("uio:lutvar-1 (")
        assert said[0] == "auto: found uio:lutvar-1 with buffer lutvar-pool"
        transport.close()
        (tmp_path / "sys/class/uio/uio0/name").write_text("lutvar-0\n")
        with pytest.raises(NoDevice, match=r"'lutvar.', only lutvar-0, lutvar-1; choose one as u"):
            open_transport(f"auto?root={tmp_path}")
        (tmp_path / "sys/class/uio/uio0/name").write_text("other\n")
        (tmp_path / "sys/class/u-dma-buf/lutvar-b").mkdir()
        with pytest.raises(NoDevice, match=r"only lutvar-b, lutvar-pool; choose one with .buffer"):
            open_transport(f"auto?root={tmp_path}")
        open_transport(f"auto?root={tmp_path}&buffer=lutvar-pool").close()
    (tmp_path / "sys/class/uio/uio4/name").write_text("gone\n")
    with pytest.raises(NoDevice, match="no UIO device 'lutvar', only gone, other,"):
        open_transport(f"auto?root={tmp_path}")


def test_a_memory_that_is_too_small(tmp_path: Path) -> None:
    with FakeBoard(DoubleChip(CONFIG, 7 << 12), tmp_path) as board:
        transport = connect(board)
        with (
            pytest.raises(BadInput, match=r"bytes are needed .* the device has 28,672; use fewer"),
            Device(transport, CONFIG) as device,
        ):
            placed(device)
        transport.close()


def test_an_access_that_is_interrupted(
    board: FakeBoard, transport: UioTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C between a request and its answer: the next access does not get the old answer."""
    transport.write32(0x7C, 5)
    receive = socket.socket.recv

    def interrupted(self: socket.socket, *arguments: int) -> bytes:
        if threading.current_thread() is threading.main_thread():
            raise KeyboardInterrupt
        return receive(self, *arguments)

    monkeypatch.setattr(socket.socket, "recv", interrupted)
    with pytest.raises(KeyboardInterrupt):
        transport.read32(0x40)
    monkeypatch.undo()
    assert transport.read32(0x7C) == 5
    monkeypatch.setattr(os, "read", interrupted)
    with pytest.raises(KeyboardInterrupt):
        transport.write(0, np.ones(64, np.uint8))
    monkeypatch.undo()
    transport.write(64, np.full(64, 2, np.uint8))
    assert board.caches.device[:128].reshape(2, 64).mean(1).tolist() == [1, 2]


def test_a_board_that_is_gone(board: FakeBoard, transport: UioTransport) -> None:
    board.close()
    with pytest.raises(BusError, match="no answer"):
        transport.read32(0)
    transport.close()
    with pytest.raises(HostError, match="does not answer; start `lutvar fake-board`"):
        connect(board)


def test_a_root_that_is_relative(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chip: DoubleChip
) -> None:
    """As in `LUTVAR_ROOT=build/board`: registers, interrupt, buffer and its attributes."""
    monkeypatch.chdir(tmp_path)
    with FakeBoard(chip, Path("build/board")):
        monkeypatch.setenv("LUTVAR_ROOT", "build/board")
        transport = open_transport("uio:lutvar")
        with Device(transport, CONFIG) as device:
            placed(device)
            assert invert(device, 1)
        transport.close()


def test_files_of_the_kernel_that_fail(
    board: FakeBoard, transport: UioTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the kernel refuses is an error of the device, like everything else that fails on it."""
    with monkeypatch.context() as patch:
        patch.setattr(board.caches, "command", lambda _attribute, _text: errno.EIO)
        with pytest.raises(HostError, match="sync_for_device of bytes 0 to 64: Input/output err"):
            transport.write(0, np.ones(64, np.uint8))
        with pytest.raises(HostError, match="sync_for_cpu of bytes 64 to 128: Input/output error"):
            transport.read(64, 64)
    board.interrupts.fire()

    def gone(fd: int, count: int) -> bytes:
        raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))

    with monkeypatch.context() as patch:
        patch.setattr(os, "read", gone)
        with pytest.raises(HostError, match="file cannot be read: No such device; the device is"):
            transport.wait(5.0)


_CHILD = """
import sys
from lutvar.contract.accelerator import load_accelerator
from lutvar.host import Device
from lutvar.host.open import open_transport
from support.sim.double_chip import invert, placed
transport = open_transport("uio:lutvar?root=" + sys.argv[1])
with Device(transport, load_accelerator("small-fp4")) as device:
    placed(device)
    print("running", flush=True)
    invert(device, 1)
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_driver_that_dies_in_the_middle(
    board: FakeBoard, chip: DoubleChip, how: signal.Signals, ctrl_c: None
) -> None:
    chip.takes = None
    tests = Path(__file__).parents[2]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tests), *sys.path])}
    child = subprocess.Popen(
        [sys.executable, "-c", _CHILD, str(board.root)], env=environment, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    assert child.stdout is not None and child.stdout.readline() == "running\n"
    while not chip.running:
        time.sleep(0.01)
    with pytest.raises(DeviceInUse, match=f"by process {child.pid};"):
        connect(board)
    child.send_signal(how)
    child.wait()
    child.stdout.close()
    if how == signal.SIGINT:
        assert not chip.running and not chip.registers["GIE"]  # it has tidied up
    chip.takes = 3
    transport = connect(board)
    with Device(transport, CONFIG) as device:
        placed(device)
        assert invert(device, 5)
    transport.close()
