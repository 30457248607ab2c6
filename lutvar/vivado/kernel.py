# SPDX-License-Identifier: Apache-2.0
"""The accelerator as an RTL kernel for Vitis: `kernel.xml`, and a start for `v++ --link`.

User-managed: XRT loads the image and places buffers, but starts nothing; the driver writes the
registers itself. The XML tells the linker which ports there are, and XRT through which of them a
buffer is reached.
"""

from __future__ import annotations

from xml.etree import ElementTree as ET

from lutvar.contract.accelerator import AcceleratorConfig
from lutvar.contract.register_map import ADDRESS_BITS, REGISTERS, read_ports

from . import board, wrapper
from .ipxact import LIBRARY, VENDOR, VERSION, ip_name

#: Where arguments are said to lie. The linker wants one for each port, each with a place of its
#: own; no register is there, and of a user-managed kernel nobody writes them.
ARGUMENTS = 0x800
#: Names of the memories in AMD's base platform for the card.
PLATFORM_MEMORIES = {"lpddr4": "LPDDR", "ddr4": "DDR"}


def kernel_xml(config: AcceleratorConfig) -> str:
    """Text of kernel.xml."""
    name = ip_name(config)
    root = ET.Element("root", versionMajor="1", versionMinor="9")
    kernel = ET.SubElement(
        root, "kernel", name=name, language="ip", vlnv=f"{VENDOR}:{LIBRARY}:{name}:{VERSION}",
        attributes="", preferredWorkGroupSizeMultiple="0", workGroupSize="1", interrupt="true",
        hwControlProtocol="user_managed",
    )  # fmt: skip
    ports = ET.SubElement(kernel, "ports")
    ET.SubElement(
        ports, "port", name=wrapper.CONTROL, mode="slave", range=f"0x{1 << ADDRESS_BITS:X}",
        dataWidth="32", portType="addressable", base="0x0",
    )  # fmt: skip
    arguments = ET.SubElement(kernel, "args")
    assert max(r.offset for r in REGISTERS) < ARGUMENTS
    for i, port in enumerate(read_ports(config.weight_ports)):
        ET.SubElement(
            ports, "port", name=f"m_axi_{port}", mode="master", range="0xFFFFFFFFFFFFFFFF",
            dataWidth=f"{wrapper.DATA_BITS}", portType="addressable", base="0x0",
        )  # fmt: skip
        ET.SubElement(
            arguments, "arg", name=port, addressQualifier="1", id=f"{i}", port=f"m_axi_{port}",
            size="0x8", offset=f"0x{ARGUMENTS + 8 * i:X}", type="void*", hostOffset="0x0",
            hostSize="0x8",
        )  # fmt: skip
    ET.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def link_config(config: AcceleratorConfig, memory: str, mhz: float) -> str:
    """Options for `v++ --link --config`: one kernel, all ports to one memory.

    Args:
        memory: of `board.MEMORIES`, where the buffer lies.
        mhz: its clock; the platform takes the nearest that it has.
    """
    name = ip_name(config)
    assert memory in board.MEMORIES
    return "\n".join([
        "# Options for v++ --link --config. Memory names are those of AMD's base platform for the",
        "# VCK190; platforminfo shows those of another.",
        "[connectivity]",
        f"nk={name}:1:{name}_1",
        *(f"sp={name}_1.m_axi_{port}:{PLATFORM_MEMORIES[memory]}"
          for port in read_ports(config.weight_ports)),
        "",
        "[clock]",
        f"freqHz={mhz * 1e6:.0f}:{name}_1.ap_clk",
        "",
    ])  # fmt: skip
