# SPDX-License-Identifier: Apache-2.0
"""Every shipped accelerator, whole, as foreign tools read it: no error and no warning.

The large ones take minutes and run when `LUTVAR_SLOW` is set.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

import pytest

from lutvar.contract.accelerator import load_accelerator
from lutvar.hw.accelerator.export import Manifest, export
from lutvar.sim import lint

LARGE = ("medium-fp4", "vck190-fp4", "vck190-latency-fp4", "vck190-fp6")
FOLDER = Path(__file__).parents[3] / "lutvar" / "configs" / "accelerator"
SHIPPED = sorted(path.stem for path in FOLDER.glob("*.yaml"))
CONFIGS = [
    pytest.param(
        name,
        marks=pytest.mark.skipif(
            name in LARGE and not os.environ.get("LUTVAR_SLOW"), reason="LUTVAR_SLOW is not set"
        ),
    )
    for name in SHIPPED
]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("every")


@cache
def exported(name: str, folder: Path) -> Manifest:
    return export(load_accelerator(name), folder)


def test_the_large_ones_are_shipped() -> None:
    assert set(LARGE) < set(SHIPPED) and len(SHIPPED) == 9


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.verilator
def test_verilator_lints_it(name: str, folder: Path) -> None:
    manifest = exported(name, folder)
    top = manifest.data["verilog"]["module"]
    assert lint.lint_verilator(manifest.verilog, top, folder) == []


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.icarus
def test_icarus_reads_it_as_verilog_2005(name: str, folder: Path) -> None:
    manifest = exported(name, folder)
    assert lint.lint_icarus(manifest.verilog, manifest.data["verilog"]["module"]) == []


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.yosys
def test_yosys_finds_no_problem(name: str, folder: Path) -> None:
    manifest = exported(name, folder)
    assert lint.check_yosys(manifest.verilog, manifest.data["verilog"]["module"]) == []


@pytest.mark.parametrize("name", CONFIGS)
def test_every_signal_has_a_name_of_its_own(name: str, folder: Path) -> None:
    assert r"\$signal" not in exported(name, folder).verilog.read_text(encoding="utf-8")
