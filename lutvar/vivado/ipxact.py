# SPDX-License-Identifier: Apache-2.0
"""The accelerator as an IP: IP-XACT as Vivado reads it, for designs that are drawn by hand.

A folder `ip` with `component.xml` (IEEE 1685-2009, the edition of AMD's tools), Verilog and a page
of settings. The component names the bus interfaces, which clock and reset belong to them, and every
register with its fields, from the contract's table: PYNQ shows registers by name only when it finds
them here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from xml.etree import ElementTree as ET

from lutvar import __version__
from lutvar.contract.accelerator import AcceleratorConfig
from lutvar.contract.identity import accelerator_hash
from lutvar.contract.register_map import ADDRESS_BITS, REGISTERS, read_ports
from lutvar.contract.register_types import Access, Field, Register

from . import wrapper
from .params import Export
from .wrapper import Port

SPIRIT = "http://www.spiritconsortium.org/XMLSchema/SPIRIT/1685-2009"
XILINX = "http://www.xilinx.com"
XSI = "http://www.w3.org/2001/XMLSchema-instance"
VENDOR, LIBRARY = "lutvar.example", "user"
#: Of the IP: release of the package without its last number.
VERSION = ".".join(__version__.split(".")[:2])
ADDRESS_BLOCK = "reg0"
_SYNTHESIS = "xilinx_anylanguagesynthesis_view_fileset"
_SIMULATION = "xilinx_anylanguagebehavioralsimulation_view_fileset"
_XGUI = "xilinx_xpgui_view_fileset"
_ACCESS = {
    Access.RO: "read-only",
    Access.RW: "read-write",
    Access.WO: "write-only",
    Access.W1C: "read-write",
}


def ip_name(config: AcceleratorConfig) -> str:
    """Name of the IP and of its top module."""
    return config.module_prefix.rstrip("_")


def ip_files(config: AcceleratorConfig, export: Export) -> dict[str, str]:
    """The folder's files, path within it -> text."""
    name = ip_name(config)
    masters = read_ports(config.weight_ports)
    xgui = f"xgui/{name}_v{VERSION.replace('.', '_')}.tcl"
    sources = (f"src/{config.name}.v", f"src/{name}.v")
    return {
        "component.xml": component(config, export.ports, sources, xgui),
        sources[0]: export.verilog.read_text(encoding="utf-8"),
        sources[1]: wrapper.wrapper(config.module, export.ports, ADDRESS_BITS, masters, name),
        xgui: "# SPDX-License-Identifier: Apache-2.0\n"
        "# Nothing to set: sizes and formats are in the Verilog.\n"
        'proc init_gui { IPINST } { ipgui::add_param $IPINST -name "Component_Name" }\n',
    }


def component(
    config: AcceleratorConfig, ports: Sequence[Port], sources: Sequence[str], xgui: str
) -> str:
    """Text of component.xml.

    Args:
        config: the accelerator; ports: of its Verilog.
        sources: Verilog files, the top module's last; xgui: page of settings. Relative paths.
    """
    for prefix, uri in (("spirit", SPIRIT), ("xilinx", XILINX), ("xsi", XSI)):
        ET.register_namespace(prefix, uri)
    name = ip_name(config)
    kept = [p for p in ports if p.name not in wrapper.UNUSED]
    interfaces = wrapper.required(read_ports(config.weight_ports))
    root = ET.Element(_tag("component"))
    _texts(root, vendor=VENDOR, library=LIBRARY, name=name, version=VERSION)
    buses = _add(root, "busInterfaces")
    for interface in interfaces:
        mine = [p for p in kept if wrapper.interface_of(p.name) == interface]
        _axi(buses, interface, mine)
    _signal(buses, "ap_clk", "clock", "CLK",
            {"ASSOCIATED_BUSIF": ":".join(interfaces), "ASSOCIATED_RESET": "ap_rst_n"})  # fmt: skip
    _signal(buses, "ap_rst_n", "reset", "RST", {"POLARITY": "ACTIVE_LOW"})
    _signal(buses, "interrupt", "interrupt", "INTERRUPT", {"SENSITIVITY": "LEVEL_HIGH"}, "master")
    spaces = _add(root, "addressSpaces")
    for interface in interfaces:
        if interface != wrapper.CONTROL:
            space = _add(spaces, "addressSpace")
            _texts(space, name=interface, range=f"{1 << wrapper.ADDRESS_BITS}",
                   width=f"{wrapper.DATA_BITS}")  # fmt: skip
    _memory_map(_add(root, "memoryMaps"), accelerator_hash(config))
    _model(_add(root, "model"), name, kept)
    _file_sets(_add(root, "fileSets"), sources, xgui)
    _texts(root, description=f"Accelerator {config.name} for low-bit VAR image generation, "
           f"configuration {accelerator_hash(config):016x}")  # fmt: skip
    _parameters(root, {"Component_Name": name})
    _extensions(root, accelerator_hash(config))
    ET.indent(root)
    head = '<?xml version="1.0" encoding="UTF-8"?>\n'
    return head + ET.tostring(root, encoding="unicode") + "\n"


def _tag(name: str) -> str:
    return f"{{{SPIRIT}}}{name}"


def _add(parent: ET.Element, name: str, text: str | None = None) -> ET.Element:
    found = ET.SubElement(parent, _tag(name))
    found.text = text
    return found


def _texts(parent: ET.Element, **values: str) -> None:
    for name, text in values.items():
        _add(parent, name, text)


def _reference(parent: ET.Element, tag: str, library: str, name: str) -> None:
    """A VLNV in attributes, such as a bus type."""
    ET.SubElement(parent, _tag(tag), {
        _tag("vendor"): "xilinx.com", _tag("library"): library, _tag("name"): name,
        _tag("version"): "1.0",
    })  # fmt: skip


def _parameters(parent: ET.Element, values: Mapping[str, str]) -> None:
    rows = _add(parent, "parameters")
    for name, value in values.items():
        row = _add(rows, "parameter")
        _texts(row, name=name)
        # Ids must differ in the whole document; the tool finds a value by its own.
        owner = parent.findtext(_tag("name")) if parent.tag == _tag("busInterface") else None
        key = f"BUSIFPARAM_VALUE.{owner}.{name}" if owner else f"PARAM_VALUE.{name}"
        _add(row, "value", value).set(_tag("id"), key.upper())


def _axi(buses: ET.Element, interface: str, ports: Sequence[Port]) -> None:
    """An AXI interface; the control port leads to the memory map, the others have a space."""
    bus = _add(buses, "busInterface")
    _texts(bus, name=interface)
    _reference(bus, "busType", "interface", "aximm")
    _reference(bus, "abstractionType", "interface", "aximm_rtl")
    if interface == wrapper.CONTROL:
        ET.SubElement(_add(bus, "slave"), _tag("memoryMapRef"), {_tag("memoryMapRef"): interface})
    else:
        ET.SubElement(
            _add(bus, "master"), _tag("addressSpaceRef"), {_tag("addressSpaceRef"): interface}
        )
    maps = _add(bus, "portMaps")
    for port in ports:
        _port_map(maps, port.name.removeprefix(f"{interface}_").upper(), port.name)
    _parameters(bus, wrapper.facts_of(interface, ADDRESS_BITS))


def _signal(
    buses: ET.Element, port: str, kind: str, logical: str, facts: Mapping[str, str],
    role: str = "slave",
) -> None:  # fmt: skip
    """A clock, reset or interrupt, an interface of one port."""
    bus = _add(buses, "busInterface")
    _texts(bus, name=port)
    _reference(bus, "busType", "signal", kind)
    _reference(bus, "abstractionType", "signal", f"{kind}_rtl")
    _add(bus, role)
    _port_map(_add(bus, "portMaps"), logical, port)
    _parameters(bus, facts)


def _port_map(maps: ET.Element, logical: str, physical: str) -> None:
    row = _add(maps, "portMap")
    _texts(_add(row, "logicalPort"), name=logical)
    _texts(_add(row, "physicalPort"), name=physical)


def _memory_map(maps: ET.Element, digest: int) -> None:
    """The registers, with the values that this configuration reads where those are fixed."""
    memory = _add(maps, "memoryMap")
    _texts(memory, name=wrapper.CONTROL)
    block = _add(memory, "addressBlock")
    _texts(block, name=ADDRESS_BLOCK, baseAddress="0x0", range=f"{1 << ADDRESS_BITS}", width="32",
           usage="register", access="read-write")  # fmt: skip
    known = {"HASH_LO": digest & 0xFFFF_FFFF, "HASH_HI": digest >> 32}
    for register in REGISTERS:
        _register(block, register, known.get(register.name, register.reset))


def _register(block: ET.Element, register: Register, reset: int) -> None:
    node = _add(block, "register")
    _texts(node, name=register.name, description=register.description,
           addressOffset=f"0x{register.offset:X}", size="32",
           volatile="false" if register.access is Access.RW else "true",
           access=_ACCESS[register.access])  # fmt: skip
    _texts(_add(node, "reset"), value=f"0x{reset:X}", mask="0xFFFFFFFF")
    # Readers drop a register without fields, so a plain number is one.
    for field in register.fields or (Field("value", 0, 32, register.description),):
        row = _add(node, "field")
        _texts(row, name=field.name, description=field.description, bitOffset=f"{field.low}",
               bitWidth=f"{field.width}", access=_ACCESS[register.access])  # fmt: skip
        if register.access is Access.W1C:
            _texts(row, modifiedWriteValue="oneToClear")
        if (register.name, field.name) == ("CTRL", "done"):
            _texts(row, readAction="clear")


def _model(model: ET.Element, top: str, ports: Sequence[Port]) -> None:
    views = _add(model, "views")
    for name, display, kind, files in (
        ("xilinx_anylanguagesynthesis", "Synthesis", "synthesis", _SYNTHESIS),
        ("xilinx_anylanguagebehavioralsimulation", "Simulation", "simulation", _SIMULATION),
        ("xilinx_xpgui", "UI Layout", "xgui.ui", _XGUI),
    ):
        view = _add(views, "view")
        _texts(view, name=name, displayName=display,
               envIdentifier=f":vivado.xilinx.com:{kind}")  # fmt: skip
        if kind != "xgui.ui":
            _texts(view, language="Verilog", modelName=top)
        _texts(_add(view, "fileSetRef"), localName=files)
    rows = _add(model, "ports")
    for port in ports:
        row = _add(rows, "port")
        _texts(row, name=port.name)
        wire = _add(row, "wire")
        _texts(wire, direction="in" if port.direction == "input" else "out")
        if port.width > 1:
            _texts(_add(wire, "vector"), left=f"{port.width - 1}", right="0")
        definition = _add(_add(wire, "wireTypeDefs"), "wireTypeDef")
        _texts(definition, typeName="wire")
        for reference in ("xilinx_anylanguagesynthesis", "xilinx_anylanguagebehavioralsimulation"):
            _add(definition, "viewNameRef", reference)


def _file_sets(sets: ET.Element, sources: Sequence[str], xgui: str) -> None:
    for name in (_SYNTHESIS, _SIMULATION):
        files = _add(sets, "fileSet")
        _texts(files, name=name)
        for source in sources:
            _texts(_add(files, "file"), name=source, fileType="verilogSource")
    files = _add(sets, "fileSet")
    _texts(files, name=_XGUI)
    file = _add(files, "file")
    _texts(file, name=xgui, fileType="tclSource", userFileType="XGUI_VERSION_2")


def _extensions(root: ET.Element, digest: int) -> None:
    """What only AMD's tools read: families, place in the catalog, revision."""
    core = ET.SubElement(_add(root, "vendorExtensions"), f"{{{XILINX}}}coreExtensions")

    def add(parent: ET.Element, name: str, text: str | None = None) -> ET.Element:
        found = ET.SubElement(parent, f"{{{XILINX}}}{name}")
        found.text = text
        return found

    family = add(add(core, "supportedFamilies"), "family", "versal")
    family.set(f"{{{XILINX}}}lifeCycle", "Beta")  # nobody has built it yet
    add(add(core, "taxonomies"), "taxonomy", "/UserIP")
    add(core, "displayName", root.findtext(_tag("description")))
    add(core, "definitionSource", "package_project")
    # Another configuration is another revision: an instance of the old one asks for an upgrade.
    add(core, "coreRevision", f"{digest >> 36}")
