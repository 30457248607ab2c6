# SPDX-License-Identifier: Apache-2.0
"""PYNQ and XRT over one golden device, and the URLs that open them."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lutvar.contract.accelerator import load_accelerator
from lutvar.host.board.files import Files
from lutvar.sim.golden_device import GoldenDevice

from . import pynq_standin, pyxrt_standin
from .chip_files import ChipFiles

CONFIG = load_accelerator("small-fp4")
MEMORY = 8 << 20
KINDS = ("xrt", "pynq", "pynq-ranged")


class Board:
    """Stand-ins over one golden device, and URLs of it."""

    def __init__(self, kind: str, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.chip = GoldenDevice(CONFIG, size=MEMORY)
        self.pyxrt = pyxrt_standin.make_pyxrt(self.chip)
        self.pynq = pynq_standin.make_pynq(self.chip, self.pyxrt, ranged=kind == "pynq-ranged")
        monkeypatch.setitem(sys.modules, "pyxrt", self.pyxrt)
        monkeypatch.setitem(sys.modules, "pynq", self.pynq)
        self.files = ChipFiles(root, self.chip)
        monkeypatch.setattr(Files, "under", staticmethod(lambda _root: self.files))
        (root / "lutvar.xclbin").touch()
        file = root / "lutvar.xclbin" if kind == "xrt" else "lutvar.pdi"
        self.url = f"{kind.partition('-')[0]}:{file}?memory=LPDDR&buffer={MEMORY >> 20}"


@contextlib.contextmanager
def made(kind: str, root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Board]:
    board = Board(kind, root, monkeypatch)
    yield board
    board.files.end()
