# SPDX-License-Identifier: Apache-2.0
"""The system script on a model of Vivado's block design: connections, addresses, gates."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from pathlib import Path

import pytest

from lutvar.contract.accelerator import load_accelerator
from lutvar.contract.identity import accelerator_hash
from lutvar.contract.register_map import ADDRESS_BITS, read_ports
from lutvar.vivado import params
from support.tcl import INTERLEAVED, SCRIPTS

#: Of the export that the tests build: vck190-fp4.
PORTS = read_ports(load_accelerator("vck190-fp4").weight_ports)


def test_block_design_is_complete(shell, prepared: Path, tmp_path: Path) -> None:
    result = shell("system.tcl", prepared / "params.tcl", tmp_path / "project", "bd")
    assert result.returncode == 0, result.stderr
    out = result.stdout
    # The model refuses unknown pins, double connections and open ends before it says so.
    assert "\nvalid\n" in out
    for number, port in enumerate(PORTS):
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
    assert seen == dict.fromkeys(PORTS, excluded)


def test_bandwidth_is_the_same_on_both_sides_of_a_link(shell, prepared, tmp_path) -> None:
    out = shell("system.tcl", prepared / "params.tcl", tmp_path / "project", "bd").stdout
    connections = dict(
        re.findall(r"^property (\w+/\w+) CONFIG.CONNECTIONS \{(.*)\}$", out, re.MULTILINE)
    )
    assert len(connections) == 6 + len(PORTS) + 1 + len(PORTS)
    # Both ends of a link name the owner of the path.
    for number in range(1 + len(PORTS)):
        for end in (f"noc_ddr4/M{number:02d}_INI", f"noc_lpddr4/S{number:02d}_INI"):
            assert f"property {end} CONFIG.INI_STRATEGY load\n" in out
    cache = re.search(r"M00_INI (\{.*?\})", connections["noc_ddr4/S00_AXI"])
    assert cache is not None and cache[1] in connections["noc_lpddr4/S00_INI"]
    for number in range(len(PORTS)):
        near = connections[f"noc_ddr4/S{6 + number:02d}_AXI"]
        far = connections[f"noc_lpddr4/S{1 + number:02d}_INI"]
        share = re.search(rf"M{1 + number:02d}_INI (\{{.*?\}})", near)
        assert share is not None
        assert share[1] in far
    for port in ("wgt", "wgt1"):
        weights = connections[f"noc_lpddr4/S{1 + PORTS.index(port):02d}_INI"]
        assert int(re.findall(r"read_bw (\d+)", weights)[0]) > 6_000


def test_both_channels_of_both_controllers_share_the_range(shell, prepared, tmp_path) -> None:
    """A buffer of 2 GiB at the base would otherwise live in half of the memory's width."""
    out = shell("system.tcl", prepared / "params.tcl", tmp_path / "project", "bd").stdout
    found = dict(re.findall(r"^property noc_lpddr4 CONFIG\.(MC_\w+) (\w+)$", out, re.MULTILINE))
    assert found == INTERLEAVED | {"MC_CHAN_REGION0": "DDR_CH1"}
    # After the board's interfaces, which bring values of their own.
    last = out.index("board noc_lpddr4/sys_clk1")
    assert all(out.index(f"CONFIG.{name} ") > last for name in INTERLEAVED)


def test_whole_flow(shell, prepared: Path, tmp_path: Path) -> None:
    project = tmp_path / "project"
    result = shell("system.tcl", prepared / "params.tcl", project)
    assert result.returncode == 0, result.stderr
    order = [
        "property lutvar_system.bd synth_checkpoint_mode None",
        "generate_target all lutvar_system.bd",
        "property synth_1 strategy Flow_PerfOptimized_high",
        "launch_runs synth_1",
        "property impl_1 STEPS.POST_ROUTE_PHYS_OPT_DESIGN.IS_ENABLED 1",
        "launch_runs impl_1 -jobs 2 -to_step post_route_phys_opt_design",
        "report_pulse_width",
        "launch_runs impl_1 -jobs 2 -to_step write_device_image",
        "write_hw_platform",
        "validate_hw_platform",
    ]
    places = [result.stdout.index(text) for text in order]
    assert places == sorted(places)
    # The strategy reaches the accelerator: it is no black box of the run.
    assert "black box" not in result.stdout
    results = project / "results"
    names = {p.name for p in results.iterdir()}
    products = {"lutvar.pdi", "lutvar.xsa", "lutvar.hwh", "addresses.csv", "lutvar.dtsi"}
    assert products | {"summary.txt", "manifest.json"} <= names
    summary = (results / "summary.txt").read_text()
    assert "clock_hz: 199998001" in summary
    assert "configuration: vck190-fp4" in summary
    manifest = json.loads((results / "manifest.json").read_text())
    config = load_accelerator("vck190-fp4")
    assert manifest["accelerator_hash"] == f"{accelerator_hash(config):016x}"
    assert manifest["vivado"] == "2025.1" and manifest["clock_hz"] == "199998001"
    assert set(manifest["files"]) == products
    for name, digest in manifest["files"].items():
        assert hashlib.sha256((results / name).read_bytes()).hexdigest() == digest
        assert f"sha256 {name}: {digest}" in summary
    asked, found = (
        path.read_text() for path in (prepared / "lutvar.dtsi", results / "lutvar.dtsi")
    )
    assert found == asked.replace("frequency = <200000000>", "frequency = <199998001>") != asked
    # The page shows what the scripts print.
    page = (Path(__file__).parents[2] / "docs" / "vck190.md").read_text(encoding="utf-8")
    shown = re.findall(r"^lutvar: .*$", page, re.MULTILINE)
    printed = result.stdout.replace(f"{project}/results", "build/results").splitlines()
    assert len(shown) == 4 and set(shown) == {p for p in printed if p.startswith("lutvar: ")}
    # Utilisation of the whole and of its parts.
    for name in ("utilization", "hierarchy"):
        assert f"/post_route_{name}.rpt" in result.stdout


def test_an_image_of_another_design_would_be_noticed(shell, prepared, tmp_path) -> None:
    """The stand-in refuses an image of a design that changed after the reports."""
    scripts = tmp_path / "scripts"
    shutil.copytree(SCRIPTS, scripts)
    system = scripts / "system.tcl"
    text = system.read_text()
    early = text.replace(
        '"*phys_opt_design*" {-to_step post_route_phys_opt_design}',
        "route_design {-to_step route_design}",
    )
    assert early != text
    system.write_text(early)
    result = shell(system, prepared / "params.tcl", tmp_path / "project")
    assert "post_route_phys_opt_design changed the design after it was judged" in result.stderr


def test_segmented_build_has_two_images(shell, export: Path, tmp_path: Path) -> None:
    out = tmp_path / "placed"
    config = load_accelerator("vck190-fp4")
    texts, _ = params.prepare(
        config, params.read_export(config, export), out, params.Options(segmented=True)
    )
    out.mkdir()
    for name, text in texts.items():
        (out / name).write_text(text)
    project = tmp_path / "project"
    images = "w_boot.pdi w_pld.pdi"
    result = shell("system.tcl", out / "params.tcl", project, version="2025.2", images=images)
    assert result.returncode == 0, result.stderr
    stdout = result.stdout
    assert stdout.index("segmented_configuration true") < stdout.index("create_bd_design")
    manifest = json.loads((project / "results" / "manifest.json").read_text())
    assert {"lutvar_boot.pdi", "lutvar_pld.pdi"} <= set(manifest["files"])
    assert manifest["segmented"] == "1"
    # The paths from the processing system boot, those of the accelerator do not.
    shares = dict(
        re.findall(r"^property (\w+/\w+) CONFIG.CONNECTIONS \{(.*)\}$", stdout, re.MULTILINE)
    )
    for pin, share in shares.items():
        system = pin == "noc_lpddr4/S00_INI" or re.fullmatch(r"noc_ddr4/S0[0-5]_AXI", pin)
        assert share.count("initial_boot true") == (share.count("read_bw") if system else 0)
    old = shell("system.tcl", out / "params.tcl", tmp_path / "old", version="2024.2")
    assert old.returncode == 2
    assert "segmented configuration needs Vivado 2025.1, this is 2024.2" in old.stderr
    one = shell("system.tcl", out / "params.tcl", tmp_path / "one", version="2025.2",
                runs=tmp_path / "other runs")  # fmt: skip
    assert one.returncode == 1 and "*_boot.pdi was expected, found:" in one.stderr


@pytest.mark.parametrize("version", ["2023.1", "2023.2", "2024.1", "2024.1.2", "2024.2", "2025.1",
                                     "2025.2"])  # fmt: skip
@pytest.mark.parametrize("late", [0, 1])
def test_releases(shell, prepared: Path, tmp_path: Path, version: str, late: int) -> None:
    """With and without the commands of newer ones; the clock known before validation or not."""
    project = tmp_path / "project"
    result = shell("system.tcl", prepared / "params.tcl", project, version=version, late=late,
                   act_mhz="199.998" if late else "")  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert "these scripts are for Vivado" not in result.stderr
    newer = version >= "2025.1"
    assert ("report_noc_qos" in result.stdout) == newer
    assert ("write_noc_solution" in result.stdout) == (version >= "2024.1")
    asked = 199998000 if late else 199998001
    assert f"property accelerator/ap_clk CONFIG.FREQ_HZ {asked}" in result.stdout
    assert "clock_hz: 199998001" in (project / "results" / "summary.txt").read_text()
    assert f"vivado: {version}" in (project / "results" / "summary.txt").read_text()


@pytest.mark.parametrize("version", ["2022.2", "2026.1"])
def test_other_releases_are_told_so(shell, prepared: Path, tmp_path: Path, version: str) -> None:
    result = shell("system.tcl", prepared / "params.tcl", tmp_path / "p", "bd", version=version)
    assert result.returncode == 0
    assert f"for Vivado 2023.1 to 2025.2, this is {version}" in result.stderr


def test_a_compilers_path_from_the_shell_is_named(
    shell, prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("C_INCLUDE_PATH", "/usr/include/x86_64-linux-gnu")
    monkeypatch.setenv("CPATH", "/opt/other/include")
    err = shell("system.tcl", prepared / "params.tcl", tmp_path / "p", "bd").stderr
    # The first is what Debian's layout asks for.
    assert "CPATH is set" in err and "C_INCLUDE_PATH is set" not in err


def test_a_build_without_handoff_says_so(shell, prepared: Path, tmp_path: Path) -> None:
    project = tmp_path / "project"
    result = shell("system.tcl", prepared / "params.tcl", project, handoff=0)
    assert result.returncode == 0 and "no hardware handoff (.hwh) was found" in result.stderr
    assert "lutvar.hwh" not in json.loads((project / "results/manifest.json").read_text())["files"]
