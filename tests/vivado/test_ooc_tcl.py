# SPDX-License-Identifier: Apache-2.0
"""The out-of-context script with stand-ins for Vivado: syntax, arguments, failures."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def verilog(tmp_path: Path) -> Path:
    path = tmp_path / "core.v"
    path.write_text(
        "// top first\nmodule lutvar_mine__accelerator(ap_clk);\nendmodule\nmodule x; endmodule\n"
    )
    return path


def test_flow_runs_every_stage(shell, verilog: Path, tmp_path: Path) -> None:
    result = shell("ooc.tcl", verilog, tmp_path / "out", 250)
    assert result.returncode == 0, result.stderr
    assert "create_clock -name ap_clk -period 4.000" in result.stdout
    commands = [line.split()[0] for line in result.stdout.splitlines() if line]
    stages = ("synth_design", "opt_design", "place_design", "route_design", "report_power")
    assert [commands.index(s) for s in stages] == sorted(commands.index(s) for s in stages)
    assert "xcvc1902-vsva2197-2MP-e-S" in result.stdout
    assert "-top lutvar_mine__accelerator" in result.stdout
    assert "-verilog_define LUTVAR_DSP58=1" in result.stdout
    assert "property {port ap_clk} HD.CLK_SRC BUFG_PS_X0Y0" in result.stdout
    histogram = (tmp_path / "out" / "post_route_slack_histogram.txt").read_text().split()
    assert histogram[-2:] == ["0.1", "1"]


def test_synthesis_alone(shell, verilog: Path, tmp_path: Path) -> None:
    result = shell("ooc.tcl", verilog, tmp_path / "out", 200, "synth", slack=-1)
    assert result.returncode == 0, result.stderr
    assert "synth_design" in result.stdout
    assert "place_design" not in result.stdout


def test_missed_timing_fails(shell, verilog: Path, tmp_path: Path) -> None:
    result = shell("ooc.tcl", verilog, tmp_path / "out", slack=-0.2)
    assert result.returncode == 1
    assert "setup slack is -0.2 ns at 200 MHz" in result.stderr


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ((), "usage"),
        (("missing.v", "out"), "missing.v does not exist"),
        ((__file__, "out", "fast"), "clock is 'fast'"),
        ((__file__, "out", "200"), "has no module; make it with: lutvar verilog"),
        ((__file__, "out", "200", "place"), "last stage is 'place'"),
    ],
)
def test_bad_arguments(shell, argv: tuple[str, ...], message: str) -> None:
    result = shell("ooc.tcl", *argv)
    assert result.returncode == 2
    assert message in result.stderr


@pytest.mark.parametrize("name", ["my verilog", "a[1]", "a{b", "dollar$x", "back\\slash"])
def test_paths_with_odd_characters(shell, verilog: Path, tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    folder.mkdir()
    odd = verilog.rename(folder / "core.v")
    result = shell("ooc.tcl", odd, folder / "out", 200, "synth")
    assert result.returncode == 0, result.stderr
    assert "read_verilog" in result.stdout and (folder / "out").is_dir()
