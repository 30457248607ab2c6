# SPDX-License-Identifier: Apache-2.0
"""What ends the system script, and folders and words that could mislead it."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from lutvar.vivado import params
from support.tcl import INTERLEAVED


@pytest.mark.parametrize(
    ("stub", "message"),
    [
        ({"slack": -0.05}, "setup slack is -0.05 ns at 200 MHz"),
        ({"pulse": -0.3}, "pulse width slack (WPWS) is -0.3 ns at 200 MHz"),
        ({"route_errors": 3}, "3 nets have routing errors"),
        ({"status": "synth_design ERROR"}, "synth_1 ended as 'synth_design ERROR'"),
        ({"status": "synth_design Complete!"}, "impl_1 ended as 'synth_design Complete!'"),
        ({"hertz": 166_666_664}, "PL0 runs at '166666664' Hz instead of 200 MHz"),
        ({"hertz": ""}, "PL0 runs at ''"),
        ({"late": 1, "act_mhz": "190.0"}, "taken for 190000000 Hz and runs at '199998001' Hz"),
        ({"noc_mc": 1}, "noc_lpddr4 has not both"),
        *(({"stubborn": name}, f"CONFIG.{name} 'other' instead of") for name in INTERLEAVED),
        ({"window": 0}, "m_axi_prog does not see lpddr4 at 0x50000000000"),
        ({"exclude": 0}, "m_axi_prog has 3 address segments after the others were excluded, not 1"),
        ({"relaxed": "bd"}, "cannot give the bandwidths of params.tcl (Ipconfig 75-4216"),
        ({"relaxed": "impl"}, "cannot give the bandwidths of params.tcl (Ipconfig 75-4216"),
        ({"images": ""}, "one device image *.pdi was expected"),
    ],
)
def test_failures_end_the_run(shell, prepared: Path, tmp_path: Path, stub, message) -> None:
    project = tmp_path / "project"
    result = shell("system.tcl", prepared / "params.tcl", project, **stub)
    assert result.returncode == 1
    assert message in result.stderr
    assert not (project / "results" / "lutvar.pdi").exists()


def test_a_missing_interface_is_named(shell, prepared: Path, tmp_path: Path) -> None:
    module = prepared / "lutvar_vck190.v"
    module.write_text(module.read_text().replace("m_axi_keys AR", "m_axi_other AR")
                      .replace("m_axi_keys R", "m_axi_other R"))  # fmt: skip
    result = shell("system.tcl", prepared / "params.tcl", tmp_path / "project", "bd")
    assert result.returncode == 1
    assert "Vivado sees no interface m_axi_keys" in result.stderr


def test_the_model_notices_an_open_port(shell, prepared: Path, tmp_path: Path) -> None:
    params = prepared / "params.tcl"
    params.write_text(
        params.read_text().replace("set lutvar(masters) {prog ", "set lutvar(masters) {")
    )
    result = shell("system.tcl", params, tmp_path / "project", "bd")
    assert result.returncode != 0
    assert "accelerator/m_axi_prog is open" in result.stderr


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ((), "usage"),
        (("missing.tcl", "out"), "missing.tcl does not exist"),
        ((__file__, "out", "route"), "last stage is 'route'"),
        ((__file__, "out", "bd", "many"), "jobs is 'many'"),
    ],
)
def test_bad_arguments(shell, argv: tuple[str, ...], message: str) -> None:
    result = shell("system.tcl", *argv)
    assert result.returncode == 2
    assert message in result.stderr


def test_existing_project_is_kept(shell, prepared: Path, tmp_path: Path) -> None:
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "mine.xpr").write_text("precious")
    result = shell("system.tcl", prepared / "params.tcl", tmp_path / "project")
    assert result.returncode == 2
    assert "holds a project" in result.stderr


@pytest.mark.parametrize("name", ["my build", "job[1]", "a{b", "dollar$x", "back\\slash"])
def test_whole_flow_in_folders_with_odd_names(
    shell, prepared: Path, tmp_path: Path, name: str
) -> None:
    folder = tmp_path / name
    shutil.copytree(prepared, folder)
    verilog = tmp_path / name / "core.v"
    verilog.write_text("module x; endmodule\n")
    params_file = folder / "params.tcl"
    text = re.sub(r"set lutvar\(verilog\) .*", "set lutvar(verilog) {core.v}",
                  params_file.read_text())  # fmt: skip
    params_file.write_text(text)
    result = shell("system.tcl", params_file, folder / "out", runs=tmp_path / "runs")
    assert result.returncode == 0, result.stderr
    assert (folder / "out" / "results" / "manifest.json").is_file()


@pytest.mark.parametrize("name", ["plain", "job[1]", "a{b", "my out"])
def test_an_existing_project_is_seen_whatever_its_folder(
    shell, prepared: Path, tmp_path: Path, name: str
) -> None:
    folder = tmp_path / name
    folder.mkdir()
    (folder / "old.xpr").touch()
    result = shell("system.tcl", prepared / "params.tcl", folder, "bd")
    assert result.returncode == 2 and "holds a project" in result.stderr


@pytest.mark.parametrize("text", ["plain", "a b", "a{b", "a}b", "x\\", "$x [y] ;#\"'"])
def test_a_word_of_tcl_means_itself(text: str) -> None:
    tclsh = shutil.which("tclsh")
    if tclsh is None:
        pytest.skip("tclsh is not installed")
    done = subprocess.run([tclsh], input=f"set x {params.tcl_word(text)}\nputs $x\n",
                          capture_output=True, text=True, check=True)  # fmt: skip
    assert done.stdout.splitlines()[-1] == text
