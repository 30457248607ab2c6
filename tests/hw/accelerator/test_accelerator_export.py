# SPDX-License-Identifier: Apache-2.0
"""The exported files: ports that Vivado infers, complete manifest, same bytes, clean Verilog."""

import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from lutvar.contract.accelerator import load_accelerator
from lutvar.contract.identity import accelerator_hash
from lutvar.contract.register_map import (
    REGISTERS,
    WRITE_PORTS,
    DeviceError,
    as_markdown,
    read_ports,
)
from lutvar.hw.accelerator.export import Manifest, export
from lutvar.sim import lint
from support.hw.stand_in_units import stand_ins

CONFIG = load_accelerator("small-fp4")
PREFIX = "lutvar_small_fp4__"
_PROGRAM = """
import sys
from support.hw.stand_in_units import stand_ins
from lutvar.contract.accelerator import load_accelerator
from lutvar.hw.accelerator.export import export
config = load_accelerator("small-fp4")
export(config, sys.argv[1], units=stand_ins(config))
"""


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return export(CONFIG, tmp_path_factory.mktemp("export"), units=stand_ins(CONFIG))


def _expected_ports(weight_ports: int = 1) -> dict[str, tuple[int, str]]:
    ports = {
        "ap_clk": (1, "input"), "ap_rst_n": (1, "input"), "interrupt": (1, "output"),
        "unit_busy": (5, "output"), "unit_active": (5, "output"),
    }  # fmt: skip
    lite = {"awaddr": 12, "awvalid": 1, "wdata": 32, "wstrb": 4, "wvalid": 1, "bready": 1,
            "araddr": 12, "arvalid": 1, "rready": 1}  # fmt: skip
    answers = {"awready": 1, "wready": 1, "bresp": 2, "bvalid": 1, "arready": 1, "rdata": 32,
               "rresp": 2, "rvalid": 1}  # fmt: skip
    ports |= {f"s_axi_control_{k}": (w, "input") for k, w in lite.items()}
    ports |= {f"s_axi_control_{k}": (w, "output") for k, w in answers.items()}
    address = {"id": 1, "addr": 64, "len": 8, "size": 3, "burst": 2, "lock": 1, "cache": 4,
               "prot": 3, "qos": 4, "valid": 1}  # fmt: skip
    for name in read_ports(weight_ports):
        out = {f"ar{k}": w for k, w in address.items()} | {"rready": 1}
        back = {"arready": 1, "rid": 1, "rdata": 512, "rresp": 2, "rlast": 1, "rvalid": 1}
        ports |= {f"m_axi_{name}_{k}": (w, "output") for k, w in out.items()}
        ports |= {f"m_axi_{name}_{k}": (w, "input") for k, w in back.items()}
    for name in WRITE_PORTS:
        out = {f"aw{k}": w for k, w in address.items()}
        out |= {"wdata": 512, "wstrb": 64, "wlast": 1, "wvalid": 1, "bready": 1}
        back = {"awready": 1, "wready": 1, "bid": 1, "bresp": 2, "bvalid": 1}
        ports |= {f"m_axi_{name}_{k}": (w, "output") for k, w in out.items()}
        ports |= {f"m_axi_{name}_{k}": (w, "input") for k, w in back.items()}
    return ports


def test_ports_are_what_vivado_infers(exported: Manifest) -> None:
    ports = {p["name"]: (p["width"], p["direction"]) for p in exported.data["ports"]}
    assert ports == _expected_ports()
    text = exported.verilog.read_text()
    module = re.search(rf"\bmodule {CONFIG.module}\b.*?\bendmodule\b", text, re.DOTALL)
    assert module is not None
    for name, (width, direction) in ports.items():
        vector = f"[{width - 1}:0] " if width > 1 else ""
        assert f"  {direction} {vector}{name};" in module[0], name
    assert len(re.findall(r"^  (?:input|output) ", module[0], re.MULTILINE)) == len(ports)
    assert "3'h6" in module[0]  # size of 64 bytes
    caches = re.findall(r"assign m_axi_\w+cache = (.*);", module[0])
    assert caches == ["4'h2"] * sum("m_axi" in name and "cache" in name for name in ports)


def test_two_weight_ports_are_two_masters(tmp_path: Path) -> None:
    config = load_accelerator("small-fp6")
    assert config.weight_ports == 2 and CONFIG.weight_ports == 1
    found = export(config, tmp_path, units=stand_ins(config))
    ports = {p["name"]: (p["width"], p["direction"]) for p in found.data["ports"]}
    assert ports == _expected_ports(2)
    assert {n for n in ports if n not in _expected_ports()} == {
        n for n in ports if n.startswith("m_axi_wgt1_")
    }
    assert found.data["parameters"]["weight_ports"] == 2


def test_manifest_describes_the_build(exported: Manifest) -> None:
    data = json.loads(exported.json.read_text())
    assert data == json.loads(json.dumps(exported.data))
    content = exported.verilog.read_bytes()
    assert data["verilog"]["sha256"] == exported.sha256 == hashlib.sha256(content).hexdigest()
    assert data["verilog"]["file"] == exported.verilog.name == "small-fp4.v"
    assert exported.config_hash == accelerator_hash(CONFIG)
    assert f"{exported.config_hash:016x}" in content.decode().splitlines()[0]
    assert data["parameters"]["rows"] == CONFIG.rows and data["parameters"]["code_bits"] == 4
    assert [r["name"] for r in data["registers"]] == [r.name for r in REGISTERS]
    assert data["errors"]["WATCHDOG"] == int(DeviceError.WATCHDOG)
    assert data["regions"] == {"MODEL": 0, "WORK": 1, "IO": 2, "CACHE": 3}
    assert data["formats"]["kv"]["name"] == "E2M3" and len(data["signs"]) == 128
    assert sorted(p.name for p in exported.json.parent.iterdir()) == [
        "small-fp4.json", "small-fp4.v",
    ]  # fmt: skip


def test_hash_covers_sizes_but_not_the_name() -> None:
    same = CONFIG.model_copy(update={"name": "other"})
    assert accelerator_hash(same) == accelerator_hash(CONFIG)
    for change in (
        {"rows": 32},
        {"kv_format": "E2M1"},
        {"quant": "fp6"},
        {"queue": 8},
        {"weight_ports": 2},
    ):
        other = CONFIG.model_copy(update=change)
        assert accelerator_hash(other) != accelerator_hash(CONFIG), change


def test_register_table_is_sound() -> None:
    offsets = [r.offset for r in REGISTERS]
    assert offsets == sorted(set(offsets)) and all(o % 4 == 0 for o in offsets)
    assert len({r.name for r in REGISTERS}) == len(REGISTERS)
    for register in REGISTERS:
        used = 0
        for item in register.fields:
            mask = (1 << item.width) - 1 << item.low
            assert not used & mask and mask < 1 << 32, (register.name, item.name)
            used |= mask
        assert f"`0x{register.offset:02X}` | {register.name} |" in as_markdown()


def test_another_process_writes_the_same_bytes(exported: Manifest, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONHASHSEED": "271828"}
    root = Path(__file__).parents[3]
    environment["PYTHONPATH"] = os.pathsep.join([str(root), str(root / "tests")])
    subprocess.run([sys.executable, "-c", _PROGRAM, tmp_path], env=environment, check=True)
    for path in (exported.verilog, exported.json):
        assert (tmp_path / path.name).read_bytes() == path.read_bytes()


def test_every_module_has_the_prefix_and_is_defined_once(exported: Manifest) -> None:
    names = re.findall(r"^module (\S+?)\(", exported.verilog.read_text(), re.MULTILINE)
    assert {
        CONFIG.module,
        f"{PREFIX}sequencer",
        f"{PREFIX}unit_fetch",
        f"{PREFIX}unit_post",
    } <= set(names)
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(rf"{PREFIX}\w+", name) for name in names)


def test_the_manifest_names_the_yosys_that_wrote_the_text(
    exported: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An older one may come first on the path; it is passed over."""
    old = tmp_path / "yosys"
    old.write_text("#!/bin/sh\necho 'Yosys 0.23 (git sha1 7ce5011c24b)'\n")
    old.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    second = export(CONFIG, tmp_path / "out", units=stand_ins(CONFIG))
    text = re.search(r"Yosys (\d+\.\d+)", second.verilog.read_text())
    assert text is not None and text[1] != "0.23"
    assert second.data["tools"]["yosys"].startswith(text[1])
    assert second.sha256 == exported.sha256


def test_configurations_share_no_module(exported: Manifest, tmp_path: Path) -> None:
    """Two accelerators in one project, or the file of an old one left in it: nothing clashes."""
    other = CONFIG.model_copy(update={"name": "small-fp4-b", "rows": 32})
    second = export(other, tmp_path, units=stand_ins(other))
    texts = [manifest.verilog.read_text() for manifest in (exported, second)]
    names = [set(re.findall(r"^module (\S+?)\(", text, re.MULTILINE)) for text in texts]
    assert len(names[0]) == len(names[1]) and not names[0] & names[1]
    for manifest, own in zip((exported, second), names, strict=True):
        assert manifest.data["verilog"]["module"] in own
    # Same hardware, other name: nothing but the names differs.
    twin = CONFIG.model_copy(update={"name": "twin"})
    text = export(twin, tmp_path, units=stand_ins(twin)).verilog.read_text()
    body = texts[0].split("\n", 1)[1].replace(PREFIX, "lutvar_twin__")
    assert text.split("\n", 1)[1] == body


@pytest.mark.icarus
def test_two_configurations_are_read_together(exported: Manifest, tmp_path: Path) -> None:
    other = CONFIG.model_copy(update={"name": "small-fp4-b", "rows": 32})
    second = export(other, tmp_path, units=stand_ins(other))
    for manifest in (exported, second):
        command = ["iverilog", "-g2005", "-t", "null", "-s", manifest.data["verilog"]["module"],
                   str(exported.verilog), str(second.verilog)]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("name", "prefix"),
    [("a", "lutvar_a__"), ("a-b_c", "lutvar_a_b_c__"), ("7--x_", "lutvar_7_x__")],
)
def test_module_prefix(name: str, prefix: str) -> None:
    config = CONFIG.model_copy(update={"name": name})
    assert config.module_prefix == prefix and config.module == f"{prefix}accelerator"


@pytest.mark.verilator
def test_verilator_reads_it_without_warnings(exported: Manifest, tmp_path: Path) -> None:
    assert lint.lint_verilator(exported.verilog, CONFIG.module, tmp_path) == []


@pytest.mark.icarus
def test_icarus_reads_it_without_warnings(exported: Manifest) -> None:
    assert lint.lint_icarus(exported.verilog, CONFIG.module) == []


@pytest.mark.yosys
def test_yosys_finds_no_problem(exported: Manifest) -> None:
    assert lint.check_yosys(exported.verilog, CONFIG.module) == []
