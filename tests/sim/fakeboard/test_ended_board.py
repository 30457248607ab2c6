# SPDX-License-Identifier: Apache-2.0
"""Boards whose accelerator fails, or whose thread stands still: the driver never waits for ever."""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from lutvar.host import BusError
from lutvar.host.errors import HostError
from lutvar.sim.device import SimulationTimeout
from lutvar.sim.fakeboard import files as fake_files
from lutvar.sim.fakeboard.board import BoardFailure, FakeBoard
from lutvar.sim.fakeboard.chip import VerilatedChip
from support.sim.double_chip import DoubleChip, connect


def test_an_accelerator_that_ends_the_board(
    tmp_path: Path, chip: DoubleChip, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever waits for an answer is told that none will come, and then what the reason was."""
    with (
        pytest.raises(BoardFailure, match="has ended, ZeroDivisionError: by zero") as caught,
        FakeBoard(chip, tmp_path) as board,
    ):
        transport = connect(board)

        def broken(write: bool, offset: int, value: int) -> tuple[int, int]:
            raise ZeroDivisionError("by zero")

        monkeypatch.setattr(chip, "access", broken)
        with pytest.raises(BusError, match="no answer"):
            transport.read32(0)
        with pytest.raises(HostError, match="has ended or stopped"):
            transport.write(0, np.ones(64, np.uint8))
        with pytest.raises(HostError, match="the interrupt's file has ended"):
            transport.wait(5.0)
        transport.close()
        with pytest.raises(HostError, match="does not answer"):
            connect(board)
    assert board.failure is caught.value.__cause__ and chip.closed


def test_an_accelerator_that_fails_by_itself(tmp_path: Path, chip: DoubleChip) -> None:
    """While time passes and nobody asks; the driver's own error is the one that goes on."""

    def broken() -> bool:
        raise ZeroDivisionError("by zero")

    with pytest.raises(BusError, match="no answer"), FakeBoard(chip, tmp_path) as board:
        transport = connect(board)
        chip.advance = broken  # type: ignore[method-assign]
        with contextlib.closing(transport):
            while True:
                transport.write32(0x7C, 1)
    assert isinstance(board.failure, ZeroDivisionError)


def test_a_simulated_device_that_does_not_answer() -> None:
    """Time that passes ends nothing: the driver gets no answer, and the board stays."""

    def silent(offset: int, value: int = 0) -> tuple[int, int]:
        raise SimulationTimeout("no answer")

    device: Any = SimpleNamespace(
        memory=np.zeros(64, np.uint8), call=lambda *_a: None, idle=lambda _cycles: None,
        reg_read=silent, reg_write=silent,
    )  # fmt: skip
    chip = VerilatedChip(device)
    assert chip.access(True, 0, 1) == chip.access(False, 0, 0) == (-1, 0)
    assert not chip.advance()


def test_a_board_that_has_stopped(
    board: FakeBoard, chip: DoubleChip, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A board that neither answers nor ends does not keep its driver for ever."""
    monkeypatch.setattr(fake_files, "SECONDS", 1)
    transport, go_on = connect(board), threading.Event()
    access = chip.access

    def stopped(write: bool, offset: int, value: int) -> tuple[int, int]:
        go_on.wait()
        return access(write, offset, value)

    monkeypatch.setattr(chip, "access", stopped)
    try:
        with pytest.raises(BusError, match="no answer"):
            transport.read32(0)
        with pytest.raises(HostError, match="has ended or stopped"):
            transport.write(0, np.ones(64, np.uint8))
    finally:
        go_on.set()
    assert transport.read32(0x40) == 0x4C555456  # late answers are not taken for this one
    transport.write(64, np.full(64, 2, np.uint8))
    transport.close()
