# SPDX-License-Identifier: Apache-2.0
"""Settings of every test run: the same surroundings on any machine, however the run was started."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:
    # Before torch is imported: workers that each use every core only slow each other down.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["MPLBACKEND"] = "Agg"  # no plots on a screen
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
