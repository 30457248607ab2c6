# SPDX-License-Identifier: Apache-2.0
"""The accelerator's Verilog, written once for all tests here."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.sim.device_rig import exported
from support.sim.small_pass import Small, open_small


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all workers of this test run have in common."""
    base = tmp_path_factory.getbasetemp()
    return (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "accelerator"


@pytest.fixture(scope="session")
def verilog(shared_folder: Path) -> Path:
    return exported(shared_folder).verilog


@pytest.fixture(scope="module")
def small(verilog: Path) -> Iterator[Small]:
    with open_small(verilog) as small:
        yield small
