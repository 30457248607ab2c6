# SPDX-License-Identifier: Apache-2.0
"""What params.py derives: ports, wrapper, bandwidth, addresses, device tree."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from lutvar.contract.accelerator import load_accelerator
from lutvar.contract.isa import Region
from lutvar.contract.register_map import (
    ADDRESS_BITS,
    REGISTERS,
    WRITE_PORTS,
    read_ports,
)
from lutvar.vivado import board, params, wrapper
from lutvar.vivado.device_tree import device_tree
from lutvar.vivado.qos import PLACEMENTS, plan, request_rows
from lutvar.vivado.traffic import Flow, attend_cycles, flows, matrix_cycles

#: Of the export that the tests build: vck190-fp4.
PORTS = read_ports(load_accelerator("vck190-fp4").weight_ports)


@pytest.fixture
def ports(export: Path) -> list[wrapper.Port]:
    return wrapper.ports_of_verilog(
        (export / "vck190-fp4.v").read_text(), load_accelerator("vck190-fp4").module
    )


def test_ports_are_read_from_the_verilog(ports: list[wrapper.Port], export: Path) -> None:
    known = json.loads((export / "vck190-fp4.json").read_text())["ports"]
    assert len(known) > 150
    assert {(p.name, p.width, p.direction) for p in ports} == {tuple(p) for p in known}
    wrapper.check(ports, PORTS)
    with pytest.raises(wrapper.PortError, match=r"m_axi_wgt1_\w+ belongs to no known interface"):
        wrapper.check(ports, read_ports(1))


def test_wrong_ports_are_refused(ports: list[wrapper.Port]) -> None:
    at = {p.name: i for i, p in enumerate(ports)}

    def changed(port: str, **values: Any) -> list[wrapper.Port]:
        copy = list(ports)
        copy[at[port]] = replace(copy[at[port]], **values)
        return copy

    cases: tuple[tuple[str, dict[str, Any], str], ...] = (
        ("m_axi_wgt_rdata", {"width": 256}, "input of 512 bits is needed"),
        ("m_axi_post_awaddr", {"width": 32}, "output of 64 bits is needed"),
        ("s_axi_control_wready", {"direction": "input"}, "output of 1 bits is needed"),
        ("ap_rst_n", {"name": "reset"}, "no port ap_rst_n"),
        ("m_axi_prog_arvalid", {"name": "m_axi_prog_start"}, "no port m_axi_prog_arvalid"),
    )
    for name, values, message in cases:
        with pytest.raises(wrapper.PortError, match=message):
            wrapper.check(changed(name, **values), PORTS)
    with pytest.raises(wrapper.PortError, match="debug belongs to no known interface"):
        wrapper.check([*ports, wrapper.Port("debug", 1, "output")], PORTS)
    with pytest.raises(wrapper.PortError, match="no module nothing"):
        wrapper.ports_of_verilog("module something; endmodule", "nothing")


@pytest.mark.icarus
def test_wrapper_elaborates_around_the_export(prepared: Path, export: Path, tmp_path: Path) -> None:
    result = subprocess.run(
        ["iverilog", "-g2001", "-Wall", "-s", wrapper.NAME, "-o", str(tmp_path / "out"),
         str(prepared / "lutvar_vck190.v"), str(export / "vck190-fp4.v")],
        capture_output=True, text=True,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert "lutvar_vck190.v" not in result.stderr  # no warning about the wrapper


def test_wrapper_names_every_interface(prepared: Path) -> None:
    text = (prepared / "lutvar_vck190.v").read_text()
    buses = re.search(r"ASSOCIATED_BUSIF ([\w:]+)", text)
    assert buses is not None
    assert set(buses[1].split(":")) == {"s_axi_control", *(f"m_axi_{p}" for p in PORTS)}
    for port in PORTS:
        mode = "READ_WRITE" if port in WRITE_PORTS else "READ_ONLY"
        facts = re.findall(rf"XIL_INTERFACENAME m_axi_{port}, ([^\"]*)", text)
        assert len(facts) == 1
        assert f"READ_WRITE_MODE {mode}," in facts[0]
    # Every port but the traces has an attribute.
    assert "unit_busy()" in text
    assert text.count("X_INTERFACE_INFO") == len(re.findall(r"^  (?:in|out)put ", text, re.M))


def test_registers_fit_the_window() -> None:
    assert max(r.offset for r in REGISTERS) < 1 << ADDRESS_BITS <= board.CONTROL_WINDOW
    assert board.CONTROL_BASE % (1 << ADDRESS_BITS) == 0
    windows = sorted(w for m in board.MEMORIES.values() for w in m.windows)
    assert all(a + size <= b for (a, size), (b, _) in pairwise(windows))
    assert not any(a <= board.CONTROL_BASE < a + size for a, size in windows)


def test_traffic_of_a_block_by_hand() -> None:
    config = load_accelerator("vck190-fp4").model_copy(
        update={"rows": 368, "attention_rows": 11, "weight_ports": 2, "max_sections": 1}
    )
    width, rows = config.max_width, config.rows
    # qkv, proj, fc1 once and fc2 twice (dual): 3 + 1 + 4 + 8; 33 beats bring 32 vectors, through
    # two ports in 32 cycles.
    vectors = width // 128 * width * (16 if config.quant_config.dual_format else 12)
    assert matrix_cycles(config) == vectors
    found = flows(config)
    for port in ("wgt", "wgt1"):
        assert found[Flow(port, False, Region.MODEL)] == pytest.approx(64 * 33 / 64)
    single = config.model_copy(update={"weight_ports": 1})
    assert matrix_cycles(single) == vectors * 33 / 32
    assert flows(single)[Flow("wgt", False, Region.MODEL)] == pytest.approx(64)
    assert not any(flow.port == "wgt1" for flow in flows(single))
    front = found[Flow("front", False, Region.WORK)]
    assert front == pytest.approx(width * rows * 18 / matrix_cycles(config))
    slow = attend_cycles(config, config.max_keys) > matrix_cycles(config)
    assert (found[Flow("values", False, Region.CACHE)] == pytest.approx(64)) == slow
    for port in PORTS:
        for write in (False, True):
            assert sum(v for k, v in found.items() if (k.port, k.write) == (port, write)) <= 64.01


@pytest.mark.parametrize(
    "name", ["vck190-fp4", "vck190-fp6", "small-fp4", "small-da-fp4", "small-dsp-fp4"]
)
@pytest.mark.parametrize("placement", list(PLACEMENTS))
@pytest.mark.parametrize("mhz", [100, 200, 300])
def test_no_memory_or_link_is_promised_twice(name: str, placement: str, mhz: int) -> None:
    config = load_accelerator(name)
    wished = plan(config, PLACEMENTS[placement], mhz)
    for memory in board.MEMORIES.values():
        assert 0 < wished.total(memory.name) <= memory.usable_mbps
        mine = [c for c in wished.connections if c.memory == memory.name]
        assert [c.port for c in mine] == list(read_ports(config.weight_ports))
        assert all(0 <= c.channel < memory.ports for c in mine)
    for c in wished.connections:
        assert board.LEAST_MBPS <= c.read <= board.LINK_MBPS
        assert (c.write >= board.LEAST_MBPS) == (c.port in WRITE_PORTS)


def test_bandwidth_follows_clock_and_placement() -> None:
    config = load_accelerator("small-fp4")

    def read(port: str, memory: str, placement: str, mhz: float) -> int:
        wished = plan(config, PLACEMENTS[placement], mhz)
        return next(c.read for c in wished.connections if (c.port, c.memory) == (port, memory))

    assert read("wgt", "lpddr4", "lpddr4", 100) == 6400
    assert read("wgt", "lpddr4", "lpddr4", 200) == 12_800
    assert read("wgt", "lpddr4", "lpddr4", 400) == board.LINK_MBPS
    assert read("front", "ddr4", "split", 200) > 500
    assert read("front", "ddr4", "lpddr4", 200) == board.LEAST_MBPS
    # The slow memory alone cannot feed the large device: everybody gets less.
    large = plan(load_accelerator("vck190-fp4"), PLACEMENTS["ddr4"], 200)
    assert large.granted["ddr4"] < 0.5


def test_stale_export_is_refused(export: Path, tmp_path: Path, capsys) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(export, copy)
    manifest = copy / "vck190-fp4.json"
    data = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**data, "config_hash": "0" * 16}))
    arguments = ["vck190-fp4", "-v", str(copy), "-o", str(tmp_path / "out")]
    assert params.main(arguments) == 1
    assert "another configuration" in capsys.readouterr().err
    manifest.write_text(json.dumps(data))
    verilog = copy / "vck190-fp4.v"
    verilog.write_text(verilog.read_text() + "// changed\n")
    assert params.main(arguments) == 1
    assert "not the file that" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert params.main(["nonsense", "-v", str(copy)]) == 1
    assert "nonsense" in capsys.readouterr().err


#: Boot trees as PetaLinux makes them, and as they come from a system device tree: other labels and
#: another controller between the fabric's interrupts and the A72, the same bus.
TREES = {
    "petalinux": """
gic: interrupt-controller@f9000000 { #interrupt-cells = <3>; #address-cells = <0>;
    interrupt-controller; reg = <0x0 0xf9000000 0x0 0x80000>; };
amba: axi { compatible = "simple-bus"; #address-cells = <2>; #size-cells = <2>; ranges;
    interrupt-parent = <&gic>; };
""",
    "system device tree": """
gic_a72: interrupt-controller@f9000000 { #interrupt-cells = <3>; #address-cells = <0>;
    interrupt-controller; reg = <0x0 0xf9000000 0x0 0x80000>; };
imux: interrupt-multiplex { compatible = "interrupt-multiplex"; #interrupt-cells = <3>;
    #address-cells = <0>; interrupt-controller; interrupt-parent = <&gic_a72>; };
amba: axi { compatible = "simple-bus"; #address-cells = <2>; #size-cells = <2>; ranges;
    interrupt-parent = <&imux>; };
""",
}


@pytest.mark.parametrize("tree", TREES)
@pytest.mark.parametrize("listed", [True, False], ids=["memory listed", "memory not listed"])
def test_device_tree_compiles(export: Path, tmp_path: Path, tree: str, listed: bool) -> None:
    text = device_tree("x", "0", board.CONTROL_BASE, 4096, "lpddr4", 2 << 30, not listed)
    assert "reg = <0x0 0xa4000000 0x0 0x1000>" in text
    assert "interrupts = <0 84 4>" in text
    assert "lutvar-pool@50000000000" in text
    assert "clock-frequency = <200000000>" in text
    assert "clk_ignore_unused" in text and "uio_pdrv_genirq.of_id=generic-uio" in text
    # A second node of one memory would hide the first; a label of one tree is unknown in others.
    assert ("memory@50000000000" in text) != listed
    assert not re.search(r"interrupt-parent|&gic\b|&imux", text)
    dtc = shutil.which("dtc")
    if dtc is None:
        pytest.skip("dtc is not installed")
    root = tmp_path / "board.dts"
    root.write_text(
        "/dts-v1/;\n/ { #address-cells = <2>; #size-cells = <2>;" + TREES[tree] + "};\n" + text
    )
    result = subprocess.run(
        [dtc, "-I", "dts", "-O", "dts", str(root)], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert "Warning" not in result.stderr, result.stderr
    assert "memory-region = <" in result.stdout
    bus = result.stdout[result.stdout.index("axi {") :]
    assert "lutvar@a4000000 {" in bus  # inside the bus that says whose interrupts these are


def test_device_tree_limits() -> None:
    def tree(memory: str, size: int) -> str:
        return device_tree("x", "0", board.CONTROL_BASE, 4096, memory, size)

    assert "lutvar-pool@800000000" in tree("ddr4", 1 << 30)
    with pytest.raises(ValueError, match="multiple of"):
        tree("lpddr4", 4096)
    with pytest.raises(ValueError, match="has 6442450944"):
        tree("ddr4", 8 << 30)


def test_the_page_has_the_tools_figures() -> None:
    page = Path(__file__).parents[2] / "constraints" / "README.md"
    text = page.read_text(encoding="utf-8")
    rows = request_rows()
    assert len(rows) == 12 and all(row in text for row in rows), "\n".join(rows)
    assert not re.search(r"\d GB/s each|\d of \d+ GB/s", text)  # nothing typed by hand


def test_the_processing_system_is_in_the_budget() -> None:
    """Its share counts: what is granted falls when it asks for more."""
    config = load_accelerator("vck190-fp4")
    wished = plan(config, PLACEMENTS["lpddr4"], 250)
    mine = sum(c.read + c.write for c in wished.connections if c.memory == "lpddr4")
    assert wished.total("lpddr4") == mine + board.PS_MBPS <= board.MEMORIES["lpddr4"].usable_mbps
    assert board.PS_MBPS == 2 * (4 * 128 + 5 + 5)


@pytest.mark.parametrize(
    ("values", "message"),
    [({"mhz": 9.0}, "--mhz is 9"), ({"mhz": 501.0}, "--mhz is 501"),
     ({"buffer_mib": 0}, "--buffer-mib is 0")],
)  # fmt: skip
def test_options_have_limits(values: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        params.Options(**values)  # type: ignore[arg-type]


def test_more_ports_than_the_noc_cell_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    config = load_accelerator("vck190-fp4").model_copy(update={"weight_ports": 4})
    params.check_ports(config)
    monkeypatch.setattr(board, "NOC_INPUTS", 14)
    with pytest.raises(params.TooManyPorts, match=r"9 memory ports \(weight_ports 4\).* 8 inputs"):
        params.check_ports(config)


def test_sections_ask_for_their_weights() -> None:
    """Four sections take weights as fast as four ports bring them; the array's own rate is less."""
    base = load_accelerator("vck190-fp4")
    four = base.model_copy(update={"rows": 368, "weight_ports": 4, "max_sections": 1})
    split = four.model_copy(update={"max_sections": 4})
    for port in ("wgt", "wgt1", "wgt2", "wgt3"):
        flow = Flow(port, False, Region.MODEL)
        assert flows(four)[flow] == pytest.approx(64 * 33 / 32 / 4)
        assert flows(split)[flow] == 64
    assert matrix_cycles(split, 4) == pytest.approx(matrix_cycles(four) * 33 / 32 / 4)
