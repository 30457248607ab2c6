# SPDX-License-Identifier: Apache-2.0
"""Every cocotb bench on the exported Verilog of a tiny core, in each simulator that is installed.

``SIM=icarus`` or ``SIM=verilator`` chooses one simulator.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from lutvar.sim import tools
from lutvar.sim.runner import BENCHES, RunError, run_benches, run_on, tiny_hardware

pytest.importorskip("cocotb", reason="cocotb is not installed: pip install lutvar[sim]")
pytest.importorskip("cocotbext.axi", reason="cocotbext-axi is not installed")

from lutvar.contract.config import load_quant
from lutvar.hw.top.export import export

_FOUND = {"verilator": tools.verilator().ok, "icarus": tools.icarus().ok}
SIMULATORS = [
    pytest.param(sim, marks=pytest.mark.skipif(not ok, reason=f"{sim} is not installed"))
    for sim, ok in _FOUND.items()
    if os.environ.get("SIM", sim) == sim
]
#: Benches of each module; a bench that disappears without notice is a failure.
EXPECTED = {"registers": 4, "jobs": 12, "errors": 11}
#: Icarus runs about 60 cycles a second, so the tests give it a part; `lutvar sim` runs everything.
SHORT = (
    r"channel_order|job_matches_golden/site=(qkv/dump=True|fc2/dump=False)|paused=all"
    r"|wrong_tlast/stream=wgt/late=True|stalled=out|hard=True"
)
SHORT_COUNT = 7


def _report(rows: list) -> str:
    return "\n".join(f"{r.sim} {r.bench}: {r.message or 'passed'}" for r in rows if not r.passed)


@pytest.fixture(scope="module")
def core(tmp_path_factory: pytest.TempPathFactory) -> Path:
    hardware = tiny_hardware()
    return export(hardware, load_quant(hardware.quant), tmp_path_factory.mktemp("core")).verilog


@pytest.mark.parametrize("sim", SIMULATORS)
def test_benches_pass(sim: str, core: Path, tmp_path: Path) -> None:
    chosen = SHORT if sim == "icarus" else None
    rows = run_benches(sim, verilog=core, build_dir=tmp_path, test_filter=chosen)  # type: ignore
    assert all(row.passed for row in rows), _report(rows)
    if chosen is None:
        counts = {name: sum(r.bench.startswith(f"{name}.") for r in rows) for name in BENCHES}
        assert counts == EXPECTED
    else:
        assert len(rows) == SHORT_COUNT
    report = json.loads((tmp_path / f"{sim}-tiny-fp4" / "results.json").read_text())
    assert len(report["benches"]) == len(rows) and report["simulator"] == sim


@pytest.mark.parametrize("sim", SIMULATORS)
def test_a_core_that_errs_fails_the_benches(sim: str, tmp_path: Path) -> None:
    """The stand-in adds its inputs instead of multiplying; its registers are wrong as well."""
    verilog = Path(__file__).with_name("stand_in.v")
    rows = run_on(
        sim, verilog, tiny_hardware(), load_quant("fp4"), tmp_path,  # type: ignore[arg-type]
        modules=["lutvar.sim.benches.registers"],
    )  # fmt: skip
    assert len(rows) == EXPECTED["registers"]
    failed = {row.bench for row in rows if not row.passed}
    assert {"registers.reset_values", "registers.access_types"} <= failed
    assert all(row.message for row in rows if not row.passed)


@pytest.mark.parametrize("sim", SIMULATORS)
def test_verilog_that_does_not_build_is_reported(sim: str, tmp_path: Path) -> None:
    broken = tmp_path / "broken.v"
    broken.write_text("module lutvar_top(input wire ap_clk);\n  missing unit();\nendmodule\n")
    with pytest.raises(RunError, match=r"could not build broken\.v"):
        run_on(
            sim, broken, tiny_hardware(), load_quant("fp4"), tmp_path / "sim",  # type: ignore
            modules=["lutvar.sim.benches.registers"],
        )  # fmt: skip
