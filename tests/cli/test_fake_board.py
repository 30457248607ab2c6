# SPDX-License-Identifier: Apache-2.0
"""`lutvar fake-board`, and `lutvar generate --device uio:lutvar` on it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lutvar.cli.errors import BAD_INPUT, FAILED, OK
from lutvar.cli.main import run
from lutvar.contract.accelerator import load_accelerator
from lutvar.sim.fakeboard.board import FakeBoard
from lutvar.sim.fakeboard.chip import GoldenChip, golden_chip
from lutvar.sim.golden_device import NoGoldenResult

ONE = ["--class", "3", "--seed", "1", "--zoom", "1", "--json"]


def drawn(capsys: pytest.CaptureFixture[str], out: Path, *arguments: str) -> tuple[bytes, dict]:
    assert run(["generate", *ONE, "-o", str(out), *arguments]) == OK
    return out.read_bytes(), json.loads(capsys.readouterr().out)


@contextmanager
def golden_board(root: Path, name: str = "small-fp4") -> Iterator[FakeBoard]:
    with FakeBoard(golden_chip(load_accelerator(name), 1 << 24), root) as board:
        yield board


def test_the_demo_on_a_fake_board(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The picture and tokens of the golden model, recorded; the second time nothing is placed."""
    golden = ("--backend", "golden", "--decoder", "golden")
    picture, right = drawn(capsys, tmp_path / "a.png", *golden)
    record = tmp_path / "run.rec"
    with golden_board(tmp_path / "board") as board:
        monkeypatch.setenv("LUTVAR_ROOT", str(board.root))
        for url in ("uio:lutvar", f"uio:lutvar?record={record}"):
            board.caches.log.clear()
            again, data = drawn(capsys, tmp_path / "b.png", "--device", url)
            assert again == picture and data["tokens"] == right["tokens"]
            placed = max(size for name, _, size, _ in board.caches.log if name == "sync_for_device")
            assert (placed > 1 << 19) == ("record" not in url)
        assert board.interrupts.count >= 8
    replayed, data = drawn(capsys, tmp_path / "c.png", "--device", f"replay:{record}")
    assert replayed == picture and data["tokens"] == right["tokens"]
    assert run(["inspect", str(record), "--json"]) == OK
    told = json.loads(capsys.readouterr().out)
    assert told["kind"] == "recorded traffic of a device" and told["format"] == "lutvar-record-1"
    assert told["calls"]["arm"] == 4 + 20 and "uio:lutvar" in told["device"]


def test_another_bitstream(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "x.png"
    with golden_board(tmp_path / "board", "small-fp6") as board:
        monkeypatch.setenv("LUTVAR_ROOT", str(board.root))
        assert run(["generate", *ONE, "-o", str(out), "--device", "uio:lutvar"]) == FAILED
        said = capsys.readouterr().err
        assert "HASH_LO is 0x" in said and "load the bitstream of small-fp4" in said
        assert "; this one is small-fp6" in said and not out.exists()


def test_a_device_that_stops(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error of the device: one line, and a file with its registers."""
    with golden_board(tmp_path / "board") as board:
        monkeypatch.setenv("LUTVAR_ROOT", str(board.root))
        access = board.chip.access

        def windows_shut(write: bool, offset: int, value: int) -> tuple[int, int]:
            return access(write, offset, 0 if write and offset == 0x100 else value)  # LIMIT0_LO

        board.chip.access = windows_shut  # type: ignore[method-assign]
        out = tmp_path / "x.png"
        assert run(["generate", *ONE, "-o", str(out), "--device", "uio:lutvar"]) == FAILED
    said = capsys.readouterr().err
    assert "device error" in said and "lies in no region" in said and not out.exists()
    assert f"{tmp_path}/device-dump.json: all registers" in said
    data = json.loads((tmp_path / "device-dump.json").read_text(encoding="utf-8"))
    assert (
        data["error"]["type"] == "AcceleratorError" and data["registers"]["ERROR"] != "0x00000000"
    )


def test_an_accelerator_that_gives_up(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The program is told that no answer comes, and the command says why."""

    def unknown(_chip: GoldenChip, _write: bool, _offset: int, _value: int) -> tuple[int, int]:
        raise NoGoldenResult("a program without a result")

    monkeypatch.setattr(GoldenChip, "access", unknown)
    code = (
        "from lutvar.host.open import open_transport\n"
        "transport = open_transport('uio:lutvar'); transport.read32(0x40)\n"
    )
    program = ["--", sys.executable, "-c", code]
    command = ["fake-board", "small-fp4", "--backend", "golden", "--memory", "1"]
    assert run([*command, *program]) == FAILED
    said = capfd.readouterr().err
    assert "error: the fake board has ended, NoGoldenResult: a program without a result" in said
    assert "HostError: the fake board under" in said and "does not answer" in said


def test_a_program_on_a_fake_board(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """It finds the tree, and its exit code is the command's."""
    code = (
        "import os, sys; from lutvar.host.open import open_transport\n"
        "transport = open_transport('uio:lutvar'); print(hex(transport.read32(0x40)))\n"
        "transport.close(); sys.exit(7)"
    )
    program = ["--", sys.executable, "-c", code]
    assert run(["fake-board", "small-fp4", "--backend", "golden", "--memory", "1", *program]) == 7
    assert capfd.readouterr().out == "0x4c555456\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "give --root DIR, or a program to run after --"),
        (["--root", "/"], "holds other files; name a new folder"),
    ],
)
def test_wrong_usage(capsys: pytest.CaptureFixture[str], arguments: list[str], said: str) -> None:
    assert run(["fake-board", "small-fp4", "--backend", "golden", *arguments]) == BAD_INPUT
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(("how", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_board_serves_until_it_is_ended(
    tmp_path: Path, ctrl_c: None, how: signal.Signals, code: int
) -> None:
    root = tmp_path / "board"
    command = [
        sys.executable, "-c", "from lutvar.cli.main import main; main()", "fake-board", "small-fp4",
        "--backend", "golden", "--memory", "1", "--root", str(root),
    ]  # fmt: skip
    for _ in range(2):  # a tree of before is made anew
        child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ)
        assert child.stdout is not None
        assert child.stdout.readline() == (
            f"ready: LUTVAR_ROOT={root} and device uio:lutvar; Ctrl-C ends it\n"
        )
        child.send_signal(how)
        assert child.wait() == code
        child.stdout.close()
