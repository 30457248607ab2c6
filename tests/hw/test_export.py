# SPDX-License-Identifier: Apache-2.0
"""The exported files: complete manifest, same bytes every time, accepted by three tools."""

import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from stand_in_engine import StandInEngine

from lutvar.contract.config import HardwareConfig, load_quant
from lutvar.contract.identity import config_hash
from lutvar.contract.registers import REGISTERS
from lutvar.hw.top.export import Manifest, export
from lutvar.hw.top.top import TOP_NAME
from lutvar.sim import lint, tools
from lutvar.sim.runner import tiny_hardware

HARDWARE, QUANT = tiny_hardware(), load_quant("fp4")
#: Exports the same core in another process.
_PROGRAM = """
import sys
from lutvar.contract.config import load_quant
from lutvar.hw.top.export import export
from lutvar.sim.runner import tiny_hardware
export(tiny_hardware(), load_quant("fp4"), sys.argv[1])
"""
#: What Vivado infers interfaces from: name -> (width, direction).
PORTS = {
    "ap_clk": (1, "input"), "ap_rst_n": (1, "input"), "interrupt": (1, "output"),
    "s_axi_control_awaddr": (12, "input"), "s_axi_control_awvalid": (1, "input"),
    "s_axi_control_awready": (1, "output"), "s_axi_control_wdata": (32, "input"),
    "s_axi_control_wstrb": (4, "input"), "s_axi_control_wvalid": (1, "input"),
    "s_axi_control_wready": (1, "output"), "s_axi_control_bresp": (2, "output"),
    "s_axi_control_bvalid": (1, "output"), "s_axi_control_bready": (1, "input"),
    "s_axi_control_araddr": (12, "input"), "s_axi_control_arvalid": (1, "input"),
    "s_axi_control_arready": (1, "output"), "s_axi_control_rdata": (32, "output"),
    "s_axi_control_rresp": (2, "output"), "s_axi_control_rvalid": (1, "output"),
    "s_axi_control_rready": (1, "input"),
    "s_axis_act_tdata": (256, "input"), "s_axis_act_tvalid": (1, "input"),
    "s_axis_act_tready": (1, "output"), "s_axis_act_tlast": (1, "input"),
    "s_axis_wgt_tdata": (256, "input"), "s_axis_wgt_tvalid": (1, "input"),
    "s_axis_wgt_tready": (1, "output"), "s_axis_wgt_tlast": (1, "input"),
    "m_axis_out_tdata": (256, "output"), "m_axis_out_tvalid": (1, "output"),
    "m_axis_out_tready": (1, "input"), "m_axis_out_tlast": (1, "output"),
    "m_axis_out_tkeep": (32, "output"),
}  # fmt: skip


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return export(HARDWARE, QUANT, tmp_path_factory.mktemp("export"))


def test_another_process_writes_the_same_bytes(exported: Manifest, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONHASHSEED": "271828"}
    environment["PYTHONPATH"] = str(Path(__file__).parents[2])
    subprocess.run([sys.executable, "-c", _PROGRAM, tmp_path], env=environment, check=True)
    for path in (exported.verilog, exported.json):
        assert (tmp_path / path.name).read_bytes() == path.read_bytes()


def test_ports_are_what_vivado_infers(exported: Manifest) -> None:
    ports = {p["name"]: (p["width"], p["direction"]) for p in exported.data["ports"]}
    assert ports == PORTS
    text = exported.verilog.read_text()
    module = re.search(rf"\bmodule {TOP_NAME}\b.*?\bendmodule\b", text, re.DOTALL)
    assert module is not None
    for name, (width, direction) in PORTS.items():
        vector = f"[{width - 1}:0] " if width > 1 else ""
        assert f"  {direction} {vector}{name};" in module[0], name
    assert len(re.findall(r"^  (?:input|output) ", module[0], re.MULTILINE)) == len(PORTS)


def test_manifest_describes_the_build(exported: Manifest) -> None:
    data = json.loads(exported.json.read_text())
    assert data == json.loads(json.dumps(exported.data))
    assert data["verilog"]["sha256"] == hashlib.sha256(exported.verilog.read_bytes()).hexdigest()
    assert data["verilog"]["file"] == exported.verilog.name == f"{HARDWARE.name}.v"
    assert exported.config_hash == config_hash(HARDWARE, QUANT)
    assert exported.stream_bytes == HARDWARE.stream_bytes
    parameters = data["parameters"]
    assert parameters == {
        "token_rows": 1, "outputs": 8, "stream_bytes": 32, "max_groups": 3, "buffer_vectors": 32,
        "row_block": 16, "group": 128, "code_bits": 4,
    }  # fmt: skip
    assert [r["name"] for r in data["registers"]] == [r.name for r in REGISTERS]
    assert data["formats"]["weight"]["name"] == "E2M1" and data["formats"]["dual"]["dual"]
    assert len(data["signs"]) == 128 and data["errors"]["STALL"] == 5
    assert data["streams"]["act_group_beats"] == 8


def test_files_hold_no_path(exported: Manifest) -> None:
    for path in (exported.verilog, exported.json):
        text = path.read_text()
        assert str(Path(__file__).parents[2]) not in text and "site-packages" not in text


def _quick(hardware: HardwareConfig, folder: Path) -> Manifest:
    """Export with the stand-in for the engine."""
    return export(hardware, QUANT, folder, engine=StandInEngine(hardware.stream_bytes))


def test_files_are_replaced_as_a_whole(tmp_path: Path) -> None:
    first = _quick(HARDWARE, tmp_path)
    for path in (first.verilog, first.json):
        path.write_text("old")
    again = _quick(HARDWARE, tmp_path)
    assert again.sha256 == first.sha256 == hashlib.sha256(again.verilog.read_bytes()).hexdigest()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["tiny-fp4.json", "tiny-fp4.v"]


def test_every_module_has_the_prefix_and_is_defined_once(exported: Manifest) -> None:
    names = re.findall(r"^module (\S+?)\(", exported.verilog.read_text(), re.MULTILINE)
    assert TOP_NAME in names and len(set(names)) == len(names)
    assert all(re.fullmatch(r"lutvar_\w+", name) for name in names)


def test_a_size_changes_the_text(tmp_path: Path) -> None:
    changed = HARDWARE.model_copy(update={"max_groups": 2})
    first, other = _quick(HARDWARE, tmp_path / "1"), _quick(changed, tmp_path / "2")
    assert other.config_hash != first.config_hash and other.sha256 != first.sha256


@pytest.mark.skipif(not tools.verilator().ok, reason="Verilator is not installed")
def test_verilator_reads_it_without_warnings(exported: Manifest, tmp_path: Path) -> None:
    assert lint.lint_verilator(exported.verilog, TOP_NAME, tmp_path) == []


@pytest.mark.skipif(not tools.icarus().ok, reason="Icarus Verilog is not installed")
def test_icarus_reads_it_without_warnings(exported: Manifest) -> None:
    assert lint.lint_icarus(exported.verilog, TOP_NAME) == []


@pytest.mark.skipif(not tools.yosys().ok, reason="Yosys is not installed")
def test_yosys_finds_no_problem(exported: Manifest) -> None:
    assert lint.check_yosys(exported.verilog, TOP_NAME) == []


def test_linters_object_to_bad_verilog(tmp_path: Path) -> None:
    bad = tmp_path / "bad.v"
    bad.write_text(
        "module lutvar_top(input wire a, input wire c, output wire b);\n"
        "  wire loop;\n  assign b = a & missing;\n  assign loop = ~loop & c;\n"
        "  assign b = c;\nendmodule\n"
    )
    if tools.verilator().ok:
        assert lint.lint_verilator(bad, TOP_NAME, tmp_path)
    if tools.icarus().ok:
        assert lint.lint_icarus(bad, TOP_NAME)
    if tools.yosys().ok:
        assert lint.check_yosys(bad, TOP_NAME)
