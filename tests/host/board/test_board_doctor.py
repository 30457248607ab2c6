# SPDX-License-Identifier: Apache-2.0
"""`lutvar doctor --board`: sound trees and trees with one thing wrong, and the registers behind."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from lutvar.cli.errors import BAD_INPUT, FAILED, OK
from lutvar.cli.main import run
from lutvar.contract.accelerator import load_accelerator
from lutvar.contract.identity import accelerator_hash
from lutvar.contract.register_map import BY_NAME
from lutvar.host.board.doctor import SYMPTOMS, Line, examine, symptoms_table
from lutvar.host.board.doctor_checks import HINT, UNKNOWN, WRONG, Board
from lutvar.host.board.doctor_checks import OK as FINE
from lutvar.host.board.files import MARK, Files
from lutvar.host.board.lock import Lock
from lutvar.sim.fakeboard.tree import Names, make_tree
from lutvar.sim.golden_device import GoldenDevice

CONFIG = load_accelerator("small-fp4")
POOL = 0x500_0000_0000
TREE = {
    "proc/cmdline": "console=ttyAMA0 uio_pdrv_genirq.of_id=generic-uio clk_ignore_unused\n",
    "proc/interrupts": "           CPU0       CPU1\n 52:         17          3  GICv3 116 Level"
    "     lutvar\n",
    "proc/meminfo": "MemTotal: 1 kB\nCmaTotal:        2097152 kB\nCmaFree:         1048576 kB\n",
    "sys/module/uio_pdrv_genirq/parameters/of_id": "generic-uio\n",
    "sys/module/u_dma_buf/version": "5.5.0\n",
    "sys/class/fpga_manager/fpga0/state": "operating\n",
    "sys/class/uio/uio4/name": "lutvar\n",
    "sys/class/uio/uio4/maps/map0/addr": "0x00000000a4000000\n",
    "sys/class/uio/uio4/maps/map0/size": "0x0000000000010000\n",
    "sys/class/uio/uio4/maps/map0/offset": "0x0\n",
    "sys/class/u-dma-buf/lutvar-buffer/phys_addr": f"0x{POOL:016x}\n",
    "sys/class/u-dma-buf/lutvar-buffer/size": "2147483648\n",
    "sys/class/u-dma-buf/lutvar-buffer/sync_for_cpu": "0\n",
    "sys/class/u-dma-buf/lutvar-buffer/sync_for_device": "0\n",
    "sys/class/hwmon/hwmon0/name": "ina226_u72\n",
    "sys/class/hwmon/hwmon1/name": "nvme\n",
    "lib/firmware/lutvar/lutvar_pld.pdi": "image",
    "usr/share/lutvar/manifest.json": json.dumps(
        {
            "accelerator_hash": f"{accelerator_hash(CONFIG):016x}",
            "files": {
                "lutvar_pld.pdi": hashlib.sha256(b"image").hexdigest(),
                "lutvar_boot.pdi": "00",
            },
        }
    ),
    "dev/uio4": "",
    "dev/lutvar-buffer": "",
    "run/lock/none": "",
}


class Registers:
    """Mapped words over the golden device."""

    def __init__(self) -> None:
        self.device = GoldenDevice(CONFIG, size=64)
        self.changes: dict[int, int] = {}

    def __getitem__(self, index: int) -> int:
        return self.changes.get(index, self.device.read32(4 * index))

    def __setitem__(self, index: int, value: int) -> None:
        raise AssertionError("the doctor writes no register")

    def release(self) -> None:
        pass


class Tree(Files):
    """A made-up tree; registers and the ioctl are the test's."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.registers, self.mask = Registers(), 64

    def words(self, fd: int, size: int, offset: int, start: int) -> Registers:
        assert (size, offset, start) == (0x1_0000, 0, 0)
        return self.registers

    def dma_mask_bits(self, fd: int) -> int | None:
        return self.mask


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    for name, text in TREE.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return Tree(tmp_path)


def lines(tree: Tree) -> dict[str, Line]:
    found = examine(Board(tree, config=CONFIG))
    assert [line.check for line in found] == list(SYMPTOMS)
    return {line.check: line for line in found}


def test_a_sound_board(tree: Tree) -> None:
    found = lines(tree)
    assert {line.state for line in found.values()} == {FINE}, found
    assert not any(line.cure for line in found.values())
    assert found["bank"].found == "LPDDR4 controller 0"
    assert found["interrupt"].found == "20 so far" and found["CMA"].found == "1024 of 2048 MiB free"
    assert found["buffer"].found == f"2,048 MiB at 0x{POOL:X}"
    assert found["image"].found.endswith("small-fp4")
    assert found["device"].found == "uio4: 65536 bytes at 0xA4000000"


def put(name: str, text: str) -> Callable[[Tree], None]:
    def act(tree: Tree) -> None:
        (tree.root / name).write_text(text)

    return act


def drop(name: str) -> Callable[[Tree], None]:
    def act(tree: Tree) -> None:
        path = tree.root / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    return act


def both(*acts: Callable[[Tree], None]) -> Callable[[Tree], None]:
    def act(tree: Tree) -> None:
        for one in acts:
            one(tree)

    return act


def register(name: str, value: int) -> Callable[[Tree], None]:
    return lambda tree: tree.registers.changes.update({BY_NAME[name].offset // 4: value})


BUFFER = "sys/class/u-dma-buf/lutvar-buffer"
OF_ID = "sys/module/uio_pdrv_genirq/parameters/of_id"
UNBOUND = drop("sys/class/uio/uio4")
#: What is wrong: its line, the state that it must have, a word of the cure or of what was found.
WRONGS = [
    (
        both(drop("sys/module/uio_pdrv_genirq"), drop("sys/class/uio")),
        "UIO driver", WRONG, "modprobe uio_pdrv_genirq",
    ),
    (both(put(OF_ID, "(null)\n"), UNBOUND), "UIO binding", WRONG, "of_id=generic-uio"),
    (
        both(drop(OF_ID), put("proc/cmdline", "quiet\n"), UNBOUND),
        "UIO binding", WRONG, "kernel argument",
    ),
    (UNBOUND, "UIO binding", FINE, "of_id=generic-uio"),
    (
        both(drop("sys/module/u_dma_buf"), drop("sys/class/u-dma-buf")),
        "u-dma-buf", WRONG, "insmod",
    ),
    (put("proc/cmdline", "quiet\n"), "PL clock", HINT, "clk_ignore_unused"),
    (put("sys/class/fpga_manager/fpga0/state", "write error\n"), "fabric", WRONG, "fpgautil"),
    (put("sys/class/fpga_manager/fpga0/state", "unknown\n"), "fabric", HINT, "boots with"),
    (drop("sys/class/fpga_manager"), "fabric", UNKNOWN, "no fpga_manager"),
    (put("sys/class/uio/uio4/name", "other\n"), "device", WRONG, "only other"),
    (drop("sys/class/uio"), "device", WRONG, "uio_pdrv_genirq is not loaded"),
    (drop("sys/class/uio/uio4/maps"), "device", WRONG, "reg"),
    (drop("dev/uio4"), "device node", WRONG, "udev"),
    (put("proc/interrupts", "CPU0\n 1: 5 GIC timer\n"), "interrupt", WRONG, "interrupts"),
    (drop(BUFFER), "buffer", WRONG, "no u-dma-buf device"),
    (put(f"{BUFFER}/phys_addr", "0x0000050000000020\n"), "buffer", WRONG, "align"),
    (put(f"{BUFFER}/phys_addr", "0x0000000040000000\n"), "bank", HINT, "LPDDR4"),
    (lambda tree: setattr(tree, "mask", 32), "DMA mask", WRONG, "dma-mask = <64>"),
    (lambda tree: setattr(tree, "mask", None), "DMA mask", UNKNOWN, "does not tell"),
    (drop("dev/lutvar-buffer"), "buffer node", WRONG, "udev"),
    (drop(f"{BUFFER}/sync_for_cpu"), "buffer node", WRONG, "version 4"),
    (
        both(drop(BUFFER), put("proc/meminfo", "CmaTotal: 0 kB\nCmaFree: 0 kB\n")),
        "CMA", WRONG, "cma=",
    ),
    (put("lib/firmware/lutvar/lutvar_pld.pdi", "other"), "files", WRONG, "of one build"),
    (put("usr/share/lutvar/manifest.json", "{}"), "files", WRONG, "accelerator_hash"),
    (drop("usr/share"), "files", UNKNOWN, "no /usr/share/lutvar/manifest.json"),
    (register("MAGIC", 0xFFFF_FFFF), "image", WRONG, "address in the device tree"),
    (register("VERSION", 0x0001_0000), "image", WRONG, "matching releases"),
    (register("HASH_HI", 7), "image", WRONG, "load the image of small-fp4"),
    (drop("sys/class/hwmon/hwmon0"), "sensors", HINT, "ina2xx"),
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(WRONGS)))
def test_one_thing_wrong(tree: Tree, number: int) -> None:
    act, check, state, said = WRONGS[number]
    act(tree)
    line = lines(tree)[check]
    assert line.state == state and said in f"{line.found} {line.cure}", line


def test_the_installed_image_is_what_should_run(tree: Tree) -> None:
    """Nobody has said what it should be: the installed manifest has."""
    found = {line.check: line for line in examine(Board(tree))}
    assert found["image"].found.endswith("installed") and found["image"].state == FINE
    tree.registers.changes[BY_NAME["HASH_LO"].offset // 4] = 1
    found = {line.check: line for line in examine(Board(tree))}
    assert found["image"].state == WRONG and "image of installed" in found["image"].cure
    drop("usr/share")(tree)
    found = {line.check: line for line in examine(Board(tree))}
    assert "none was named" in found["image"].found and found["image"].state == FINE


def test_every_symptom_has_a_wrong_tree() -> None:
    told = {check for _, check, _, _ in WRONGS}
    assert told | {"owner"} == set(SYMPTOMS)


def test_files_that_cannot_be_read(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is a line that does not know; the other lines are as they were."""

    def refused(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    sound = lines(tree)
    monkeypatch.setattr(Path, "read_bytes", refused)
    found = lines(tree)
    assert found["files"] == Line(
        "files", UNKNOWN, "lutvar_pld.pdi cannot be read: Permission denied", "run as root"
    )
    assert {n: line for n, line in found.items() if n != "files"} == {
        n: line for n, line in sound.items() if n != "files"
    }


def test_a_check_that_meets_a_broken_file(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_board: Board) -> None:
        raise OSError(5, "Input/output error", "/sys/x")

    monkeypatch.setitem(SYMPTOMS, "fabric", ("", broken))
    found = lines(tree)["fabric"]
    assert found.state == UNKNOWN and "Input/output error" in found.found


def test_the_page_has_the_table() -> None:
    page = (Path(__file__).parents[3] / "docs/vck190.md").read_text(encoding="utf-8")
    table = page.split("<!-- doctor -->")[1].split("<!-- /doctor -->")[0]
    assert table.strip() == symptoms_table()


def test_somebody_else_has_it(tree: Tree) -> None:
    lock = Lock(tree, 0xA400_0000, "uio4")
    found = lines(tree)
    assert found["owner"].state == HINT and f"process {os.getpid()}" in found["owner"].found
    assert found["image"].state == UNKNOWN
    lock.release()
    assert lines(tree)["image"].state == FINE


def test_permissions(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a user without rights sees it; root may open everything, so the answer is made up."""
    barred = {tree.root / "dev/uio4", tree.root / BUFFER / "sync_for_device"}
    monkeypatch.setattr(os, "access", lambda path, mode: path not in barred or not mode & os.W_OK)
    found = lines(tree)
    for name in ("device node", "buffer node"):
        assert found[name].state == WRONG and "udev rules" in found[name].cure


def test_the_command(
    tree: Tree, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Files, "under", staticmethod(lambda _root: tree))
    arguments = ["doctor", "--board", "--root", str(tree.root)]
    assert run([*arguments, "--config", "small-fp4"]) == OK
    assert "nothing stands in the way" in capsys.readouterr().out
    assert run([*arguments, "--config", "small-fp6", "--json"]) == FAILED
    data = json.loads(capsys.readouterr().out)
    assert not data["ready"] and [x["check"] for x in data["lines"]] == list(SYMPTOMS)
    assert run([*arguments, "--uio", "none"]) == FAILED
    assert "device: there is no UIO device 'none'" in capsys.readouterr().out
    assert run(["doctor", "--uio", "x"]) == BAD_INPUT
    assert "no use of --uio" in capsys.readouterr().err


def test_a_fake_board(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Nothing of it is wrong to the doctor, whatever a folder cannot have."""
    tree = make_tree(tmp_path, Names(), POOL, 1 << 20, "nowhere")
    assert len(tree) == 1 << 20
    (tmp_path / MARK).unlink()
    found = {line.check: line for line in examine(Board(Tree(tmp_path), config=CONFIG))}
    assert {line.check for line in found.values() if line.state == WRONG} == set()
    assert found["image"].state == FINE and found["buffer"].state == FINE


def test_this_machine_is_no_board(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """An empty tree: every line says something, and the command fails."""
    assert run(["doctor", "--board", "--root", str(tmp_path)]) == FAILED
    assert "it cannot work like this" in capsys.readouterr().out
