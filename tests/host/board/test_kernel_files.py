# SPDX-License-Identifier: Apache-2.0
"""What the fake board cannot stand in for: mapped words, accesses that kill, locks, odd trees."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from lutvar.host.board.errors import (
    DeviceInUse,
    MappingFault,
    ModuleMissing,
    NoDevice,
    NoPermission,
    UnusableBuffer,
)
from lutvar.host.board.files import Files
from lutvar.host.board.lock import Lock
from lutvar.host.board.probe import probe
from lutvar.host.board.registers import Registers
from lutvar.host.board.sysfs import find_buffer, find_uio
from lutvar.host.errors import BadInput
from lutvar.host.open import open_transport

PAGE = os.sysconf("SC_PAGE_SIZE")


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def put(files: Files, path: str, text: str) -> None:
    target = files.path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text)


def test_mapped_registers(files: Files) -> None:
    """Words at their offsets in the map, and nothing beside them is touched."""
    path = files.path("node")
    path.write_bytes(bytes(range(256)) * (2 * PAGE // 256))
    fd = files.open(path, os.O_RDWR | os.O_SYNC)
    words = files.words(fd, 2 * PAGE, 0, 16)  # registers need not begin at a page
    registers = Registers(words, PAGE)
    assert registers.read(0) == 0x13121110 and registers.read(PAGE - 4) == 0x0F0E0D0C
    before = path.read_bytes()
    registers.write(8, 0x89ABCDEF)
    after = path.read_bytes()
    assert after[24:28] == bytes.fromhex("efcdab89") and registers.read(8) == 0x89ABCDEF
    assert before[:24] + before[28:] == after[:24] + after[28:]
    with pytest.raises(BadInput):
        registers.read(PAGE)
    words.release()
    files.close(fd)


def test_an_access_that_kills(files: Files) -> None:
    """A page without anything behind it: the kernel answers with SIGBUS, as for a dead bus."""
    path = files.path("node")
    path.write_bytes(bytes(PAGE))
    fd = files.open(path, os.O_RDWR)
    words = files.words(fd, PAGE, 0, 0)
    probe(words, "uio:lutvar")
    path.write_bytes(b"")
    with pytest.raises(MappingFault, match=r"uio:lutvar: reading .* signal 7; nothing") as caught:
        probe(words, "uio:lutvar")
    assert caught.value.signal == signal.SIGBUS
    words.release()
    files.close(fd)


class _Slow:
    def __getitem__(self, index: int) -> int:
        time.sleep(60)
        return 0

    def __setitem__(self, index: int, value: int) -> None:
        raise NotImplementedError

    def release(self) -> None:
        pass


def test_an_access_that_hangs() -> None:
    with pytest.raises(MappingFault, match=r"reading a register hangs; .*clk_ignore_unused"):
        probe(_Slow(), "uio:lutvar", 0.05)


def test_a_lock_ends_with_its_process(files: Files) -> None:
    files.path("run/lock").mkdir(parents=True)
    code = (
        "import sys, time; from pathlib import Path\n"
        "from lutvar.host.board.files import Files; from lutvar.host.board.lock import Lock\n"
        "lock = Lock(Files(Path(sys.argv[1])), 0xA4000000, 'uio4'); print('locked', flush=True)\n"
        "time.sleep(600)\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(files.root)], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None and child.stdout.readline() == "locked\n"
    with pytest.raises(DeviceInUse, match=f"uio4 is in use by process {child.pid}; wait") as caught:
        Lock(files, 0xA400_0000, "uio4")
    assert caught.value.pid == child.pid
    Lock(files, 0xA401_0000, "uio5").release()  # another device
    child.kill()
    child.wait()
    child.stdout.close()
    lock = Lock(files, 0xA400_0000, "uio4")
    assert lock.path.read_text() == f"{os.getpid()}\n"
    lock.path.write_text("")  # an owner that could not leave its name
    with pytest.raises(DeviceInUse, match="in use by another process"):
        Lock(files, 0xA400_0000, "uio4")
    lock.release()
    lock.release()
    Lock(files, 0xA400_0000, "uio4").release()


def test_trees_without_the_modules(files: Files) -> None:
    with pytest.raises(ModuleMissing, match="uio_pdrv_genirq is not loaded; run: modprobe uio_p"):
        find_uio(files, "lutvar")
    with pytest.raises(ModuleMissing, match=r"u-dma-buf is not loaded; build it from .*insmod"):
        find_buffer(files, "lutvar-buffer")
    files.path("sys/class/uio").mkdir(parents=True)
    with pytest.raises(NoDevice, match="no UIO device 'lutvar', only nothing; the device tree has"):
        find_uio(files, "lutvar")
    with pytest.raises(BadInput, match="is no folder; start the fake board first"):
        open_transport(f"uio:lutvar?root={files.root}/nowhere")


def test_devices_are_found_by_name(files: Files) -> None:
    for number, name in enumerate(("a", "lutvar", "twice", "twice", "b")):
        for key, value in (("addr", f"0xa40{number}0000"), ("size", "0x1000"), ("offset", "0x40")):
            put(files, f"sys/class/uio/uio{number}/maps/map0/{key}", f"{value}\n")
        put(files, f"sys/class/uio/uio{number}/name", f"{name}\n")
    found = find_uio(files, "lutvar")
    assert (found.node, found.address) == (files.path("dev/uio1"), 0xA401_0000)
    assert (found.size, found.offset, found.clock_hz) == (0x1000, 0x40, None)
    with pytest.raises(NoDevice, match="no one UIO device 'twice', only uio2, uio3; their device"):
        find_uio(files, "twice")
    with pytest.raises(NoDevice, match="'c', only a, b, lutvar, twice; give one of these names"):
        find_uio(files, "c")
    put(files, "sys/class/uio/uio1/maps/map0/size", "rubbish\n")
    with pytest.raises(NoDevice, match=r"no register map of UIO device 'lutvar'.*`reg` property"):
        find_uio(files, "lutvar")
    put(files, "sys/class/u-dma-buf/pool/phys_addr", "0x50000000000\n")
    with pytest.raises(UnusableBuffer, match="'pool' has no phys_addr or size; load a u-dma-buf"):
        find_buffer(files, "pool")
    put(files, "sys/class/u-dma-buf/pool/size", "4096\n")
    buffer = find_buffer(files, "pool")
    assert (buffer.address, buffer.size, buffer.coherent) == (0x500_0000_0000, 4096, False)
    put(files, "sys/class/u-dma-buf/pool/dma_coherent", "1\n")
    assert find_buffer(files, "pool").coherent


def test_files_of_others(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_arguments: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refused)  # root may open everything
    with pytest.raises(NoPermission, match="dev/uio0: permission denied; run as root, or install"):
        files.open(files.path("dev/uio0"), os.O_RDWR)


def test_a_plain_file_has_no_dma_mask(files: Files) -> None:
    put(files, "dev/pool", "x" * 4096)
    fd = files.open(files.path("dev/pool"), os.O_RDWR)
    assert files.dma_mask_bits(fd) is None
    memory = files.memory(fd, 4096)
    memory[5:7] = np.frombuffer(b"ab", np.uint8)
    assert files.path("dev/pool").read_bytes()[4:8] == b"xabx"
    assert files.readable(fd, 0.0)
    files.close(fd)
