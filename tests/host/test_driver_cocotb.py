# SPDX-License-Identifier: Apache-2.0
"""The same driver, unchanged, on cocotb's AXI bus models: what it does is legal AXI."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from host_cases import tiny

from lutvar.hw.top.export import export
from lutvar.sim import tools

runner = pytest.importorskip("cocotb_tools.runner", reason="cocotb is not installed")
pytest.importorskip("cocotbext.axi", reason="cocotbext-axi is not installed")

_HERE = Path(__file__).parent


@pytest.mark.skipif(not tools.verilator().ok, reason="Verilator 5.036 or later is not installed")
def test_driver_on_bus_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hardware, quant = tiny("fp4")
    manifest = export(hardware, quant, tmp_path)
    for name, value in tools.verilator(tmp_path).environment.items():
        monkeypatch.setenv(name, value)
    simulator = runner.get_runner("verilator")
    simulator.build(
        sources=[manifest.verilog],
        hdl_toplevel="lutvar_top",
        build_dir=tmp_path / "build",
        build_args=["-Wno-fatal", "-O3", "--x-assign", "fast", "--x-initial", "fast"],
        timescale=("1ns", "1ps"),
    )
    paths = [str(_HERE), str(_HERE.parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    results = simulator.test(
        hdl_toplevel="lutvar_top",
        test_module="driver_bench",
        build_dir=tmp_path / "build",
        test_dir=tmp_path,
        extra_env={"PYTHONPATH": os.pathsep.join(paths), "PYTHONHASHSEED": "0"},
    )
    assert runner.get_results(results) == (3, 0), f"tests and failures; see {tmp_path}"
