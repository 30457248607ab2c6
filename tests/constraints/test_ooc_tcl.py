# SPDX-License-Identifier: Apache-2.0
"""The Vivado scripts in a plain Tcl shell with stub commands: syntax, arguments, failures."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "constraints" / "ooc.tcl"
STUBS = """
foreach name {{synth_design write_checkpoint report_utilization report_design_analysis opt_design
               place_design phys_opt_design route_design report_timing_summary report_control_sets
               report_methodology report_drc read_verilog create_clock set_input_delay
               set_output_delay get_ports}} {{
    proc $name {{args}} [format {{puts "%s $args"}} $name]
}}
proc read_xdc {{args}} {{ uplevel #0 source [lindex $args end] }}
proc get_timing_paths {{args}} {{ return path }}
proc get_property {{name path}} {{ return {slack} }}
set argv [list {argv}]
source {script}
"""


def run(tmp_path: Path, argv: str, slack: str = "0.1") -> subprocess.CompletedProcess[str]:
    tclsh = shutil.which("tclsh")
    if tclsh is None:
        pytest.skip("tclsh is not installed; the Tcl scripts cannot be executed here")
    program = tmp_path / "run.tcl"
    program.write_text(STUBS.format(slack=slack, argv=argv, script=SCRIPT))
    return subprocess.run([tclsh, str(program)], capture_output=True, text=True, timeout=20)


def test_flow_runs_every_stage(tmp_path: Path) -> None:
    verilog = tmp_path / "core.v"
    verilog.write_text("module lutvar_top; endmodule\n")
    result = run(tmp_path, f"{verilog} {tmp_path / 'out'} 250")
    assert result.returncode == 0, result.stderr
    assert "create_clock -name ap_clk -period 4.000" in result.stdout
    for stage in ("synth_design", "place_design", "route_design", "report_timing_summary"):
        assert f"{stage} " in result.stdout or f"{stage}\n" in result.stdout
    assert "xcvc1902-vsva2197-2MP-e-S" in result.stdout


def test_missed_timing_fails(tmp_path: Path) -> None:
    verilog = tmp_path / "core.v"
    verilog.write_text("module lutvar_top; endmodule\n")
    result = run(tmp_path, f"{verilog} {tmp_path / 'out'}", slack="-0.2")
    assert result.returncode == 1
    assert "setup slack is -0.2 ns at 200 MHz" in result.stderr


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ("", "usage"),
        ("missing.v out", "missing.v does not exist"),
        (f"{SCRIPT} out fast", "clock is 'fast'"),
    ],
)
def test_bad_arguments(tmp_path: Path, argv: str, message: str) -> None:
    result = run(tmp_path, argv)
    assert result.returncode == 2
    assert message in result.stderr
