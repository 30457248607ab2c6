# SPDX-License-Identifier: Apache-2.0
"""Cases that `lutvar fuzz` has found, and a short run, on the Verilog of the small accelerator."""

from __future__ import annotations

from pathlib import Path

import pytest

from lutvar.contract.accelerator import load_accelerator
from lutvar.sim.fuzz.build import build_device
from lutvar.sim.fuzz.case import read_case
from lutvar.sim.fuzz.oracle import replay
from lutvar.sim.fuzz.run import Fuzzer

pytestmark = [pytest.mark.verilator, pytest.mark.slow]

CASES = sorted((Path(__file__).parent / "cases").glob("*.json"))


@pytest.fixture(scope="module")
def builds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("builds")


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_cases_that_were_found_stay_right(path: Path, builds: Path) -> None:
    case = read_case(path)
    library = build_device(case.config, builds, build_dir=builds / "sim")
    deviation = replay(library, case)
    assert deviation is None, deviation


def test_random_programs_deviate_nowhere(builds: Path, tmp_path: Path) -> None:
    config = load_accelerator("small-fp4")
    library = build_device(config, builds, build_dir=builds / "sim")
    report = Fuzzer(library, config, 1, tmp_path).run(programs=40, seconds=300)
    assert not report.deviations, report.deviations
    assert report.ends["done"] > 5 and len(report.ends) > 3 and len(report.kinds) > 3
