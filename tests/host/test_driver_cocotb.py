# SPDX-License-Identifier: Apache-2.0
"""The same driver, unchanged, on cocotb's AXI bus models: what it does is legal AXI."""

from __future__ import annotations

from pathlib import Path

import pytest
from host_cases import gateware

from lutvar.hw.top.export import export
from lutvar.sim import tools

pytest.importorskip("cocotb", reason="cocotb is not installed")
pytest.importorskip("cocotbext", reason="cocotbext-axi is not installed")

from lutvar.sim.runner import run_on


@pytest.mark.skipif(not tools.verilator().ok, reason="Verilator 5.036 or later is not installed")
def test_driver_on_bus_models(tmp_path: Path) -> None:
    hardware, quant = gateware("fp4")
    manifest = export(hardware, quant, tmp_path)
    results = run_on(
        "verilator", manifest.verilog, hardware, quant, tmp_path, modules=["driver_bench"]
    )
    assert [(row.bench, row.message) for row in results if not row.passed] == []
    assert len(results) == 3
