# SPDX-License-Identifier: Apache-2.0
"""The system script on a model of Vivado's block design: connections, addresses, gates."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import params
import pytest

from lutvar.contract.register_map import ADDRESS_BITS, READ_PORTS


def test_block_design_is_complete(shell, prepared: Path, tmp_path: Path) -> None:
    result = shell("system.tcl", prepared / "params.tcl", tmp_path / "project", "bd")
    assert result.returncode == 0, result.stderr
    out = result.stdout
    # The model refuses unknown pins, double connections and open ends before it says so.
    assert "\nvalid\n" in out
    for number, port in enumerate(READ_PORTS):
        assert f"connect accelerator/m_axi_{port} noc_ddr4/S{6 + number:02d}_AXI" in out
        assert f"connect noc_ddr4/M{1 + number:02d}_INI noc_lpddr4/S{1 + number:02d}_INI" in out
    assert "connect accelerator/interrupt cips/pl_ps_irq0" in out
    assert "connect cips/pl0_ref_clk accelerator/ap_clk" in out
    assert "connect reset/peripheral_aresetn accelerator/ap_rst_n" in out
    assert "board noc_lpddr4/CH1_LPDDR4_1 ch1_lpddr4_c1" in out
    # The newest board files, by number and not by letter.
    assert "xilinx.com:vck190:part0:3.10" in out
    assert "property accelerator/ap_clk CONFIG.FREQ_HZ 199998001" in out
    assert (
        f"assign_bd_address -offset 0xA4000000 -range 0x{1 << ADDRESS_BITS:X} "
        "-target_address_space cips/M_AXI_FPD accelerator/s_axi_control/reg0"
    ) in out
    assert "property sources_1 verilog_define LUTVAR_DSP58=1" in out
    assert "launch_runs" not in out


@pytest.mark.parametrize(
    ("memory", "excluded"),
    [
        ("lpddr4", {"0x0", "0x800000000"}),  # the whole DIMM, in which Linux lives
        ("split", {"0x0"}),
        ("ddr4", {"0x0", "0x50000000000"}),
    ],
)
def test_masters_reach_the_buffers_memory_alone(
    shell, export: Path, tmp_path: Path, memory: str, excluded: set[str]
) -> None:
    out = tmp_path / "placed"
    made = params.main(["vck190-fp4", "-v", str(export), "-o", str(out), "--memory", memory])
    assert made == 0
    result = shell("system.tcl", out / "params.tcl", tmp_path / "project", "bd")
    assert result.returncode == 0, result.stderr
    seen: dict[str, set[str]] = {}
    pattern = r"^exclude_bd_addr_seg \{accelerator/m_axi_(\w+) (\w+) \w+\}$"
    for port, address in re.findall(pattern, result.stdout, re.MULTILINE):
        seen.setdefault(port, set()).add(address)
    assert seen == dict.fromkeys(READ_PORTS, excluded)


def test_bandwidth_is_the_same_on_both_sides_of_a_link(shell, prepared, tmp_path) -> None:
    out = shell("system.tcl", prepared / "params.tcl", tmp_path / "project", "bd").stdout
    connections = dict(
        re.findall(r"^property (\w+/\w+) CONFIG.CONNECTIONS \{(.*)\}$", out, re.MULTILINE)
    )
    assert len(connections) == 6 + len(READ_PORTS) + 1 + len(READ_PORTS)
    for number in range(len(READ_PORTS)):
        near = connections[f"noc_ddr4/S{6 + number:02d}_AXI"]
        far = connections[f"noc_lpddr4/S{1 + number:02d}_INI"]
        share = re.search(rf"M{1 + number:02d}_INI (\{{.*?\}})", near)
        assert share is not None
        assert share[1] in far
    for port in ("wgt", "wgt1"):
        weights = connections[f"noc_lpddr4/S{1 + READ_PORTS.index(port):02d}_INI"]
        assert int(re.findall(r"read_bw (\d+)", weights)[0]) > 6_000


def test_whole_flow(shell, prepared: Path, tmp_path: Path) -> None:
    project = tmp_path / "project"
    result = shell("system.tcl", prepared / "params.tcl", project)
    assert result.returncode == 0, result.stderr
    for run in ("launch_runs synth_1", "-to_step route_design", "-to_step write_device_image"):
        assert run in result.stdout
    names = {p.name for p in (project / "results").iterdir()}
    assert {"lutvar.pdi", "lutvar.xsa", "summary.txt"} <= names
    summary = (project / "results" / "summary.txt").read_text()
    assert "clock_hz: 199998001" in summary
    assert "configuration: vck190-fp4" in summary


@pytest.mark.parametrize(
    ("stub", "message"),
    [
        ({"slack": -0.05}, "setup slack is -0.05 ns at 200 MHz"),
        ({"status": "synth_design ERROR"}, "synth_1 ended as 'synth_design ERROR'"),
        ({"hertz": 166_666_664}, "PL0 runs at '166666664' Hz instead of 200 MHz"),
        ({"hertz": ""}, "PL0 runs at ''"),
        ({"noc_mc": 1}, "noc_lpddr4 has not both"),
        ({"window": 0}, "m_axi_prog does not see lpddr4 at 0x50000000000"),
        ({"exclude": 0}, "m_axi_prog has 3 address segments after the others were excluded, not 1"),
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
