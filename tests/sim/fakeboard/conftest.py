# SPDX-License-Identifier: Apache-2.0
"""A fake board whose accelerator is a few lines of Python, and a transport to it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from lutvar.contract.accelerator import load_accelerator
from lutvar.host.board.uio import UioTransport
from lutvar.sim.fakeboard.board import FakeBoard
from support.sim.double_chip import (
    DoubleChip,
    connect,
)

CONFIG = load_accelerator("small-fp4")


@pytest.fixture
def chip() -> DoubleChip:
    return DoubleChip(CONFIG)


@pytest.fixture
def board(chip: DoubleChip, tmp_path: Path) -> Iterator[FakeBoard]:
    with FakeBoard(chip, tmp_path) as board:
        yield board
    assert chip.closed


@pytest.fixture
def transport(board: FakeBoard) -> Iterator[UioTransport]:
    transport = connect(board)
    yield transport
    transport.close()
