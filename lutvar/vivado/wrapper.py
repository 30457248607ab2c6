# SPDX-License-Identifier: Apache-2.0
"""The Verilog module that the block design instantiates: the accelerator and its interfaces' names.

Vivado can guess interfaces from port names; attributes leave nothing to guess, above all which
clock and reset belong to which interface, and that some memory ports only read.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from lutvar.contract.register_map import READ_PORTS, WRITE_PORTS

NAME = "lutvar_vck190"
CONTROL = "s_axi_control"
#: Memory ports of any build; every one of them reads.
MASTERS = tuple(f"m_axi_{port}" for port in READ_PORTS)
#: Left open in the block design.
UNUSED = ("unit_busy", "unit_active")
#: Signals that each interface must have.
AXI_READ = ("araddr", "arlen", "arsize", "arburst", "arvalid", "arready",
            "rdata", "rresp", "rlast", "rvalid", "rready")  # fmt: skip
AXI_WRITE = ("awaddr", "awlen", "awsize", "awburst", "awvalid", "awready",
             "wdata", "wstrb", "wlast", "wvalid", "wready",
             "bresp", "bvalid", "bready")  # fmt: skip
LITE = ("awaddr", "awvalid", "awready", "wdata", "wstrb", "wvalid", "wready", "bresp", "bvalid",
        "bready", "araddr", "arvalid", "arready", "rdata", "rresp", "rvalid", "rready")  # fmt: skip
DATA_BITS, ADDRESS_BITS = 512, 64


@dataclass(frozen=True)
class Port:
    name: str
    width: int
    direction: str  #: "input" or "output"


class PortError(ValueError):
    """The accelerator's ports are not those that the flow connects."""


def required(read_ports: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Interface -> signals that it must have, without the prefix."""
    found: dict[str, tuple[str, ...]] = {CONTROL: LITE}
    for master in (f"m_axi_{port}" for port in read_ports):
        writes = master.removeprefix("m_axi_") in WRITE_PORTS
        found[master] = AXI_READ + (AXI_WRITE if writes else ())
    return found


def check(ports: Iterable[Port], read_ports: Sequence[str]) -> None:
    """Raise PortError for a missing or surplus port, or a wrong width or direction.

    `read_ports`: names of the build's memory ports.
    """
    known = {p.name: p for p in ports}
    for name, direction in (("ap_clk", "input"), ("ap_rst_n", "input"), ("interrupt", "output")):
        _expect(known, name, direction, 1)
    for interface, signals in required(read_ports).items():
        master = interface != CONTROL
        for signal in signals:
            towards_slave = not (
                signal.endswith("ready") if signal[0] in "aw" else not signal.endswith("ready")
            )
            width = None
            if master and signal in ("rdata", "wdata"):
                width = DATA_BITS
            elif master and signal in ("araddr", "awaddr"):
                width = ADDRESS_BITS
            elif signal.endswith(("valid", "ready", "last")):
                width = 1
            direction = "output" if towards_slave == master else "input"
            _expect(known, f"{interface}_{signal}", direction, width)
    for name in known:
        others = ("ap_clk", "ap_rst_n", "interrupt", *UNUSED)
        if interface_of(name) not in required(read_ports) and name not in others:
            raise PortError(f"port {name} belongs to no known interface; connect it in wrapper.py")


def interface_of(name: str) -> str | None:
    """The AXI interface that a port belongs to."""
    for interface in (CONTROL, *MASTERS):
        if name.startswith(f"{interface}_"):
            return interface
    return None


def wrapper(
    module: str,
    ports: Sequence[Port],
    address_bits: int,
    read_ports: Sequence[str],
    name: str = NAME,
) -> str:
    """Verilog of module `name` around `module`; ports as in its manifest."""
    check(ports, read_ports)
    kept = [p for p in ports if p.name not in UNUSED]
    first: set[str] = set()
    lines = [
        "// SPDX-License-Identifier: Apache-2.0",
        f"// Generated: {module} with the attributes that Vivado's block designs read.",
        "`default_nettype none",
        f"module {name} (",
    ]
    for i, port in enumerate(kept):
        lines += [f"  {text}" for text in _attributes(port, first, address_bits, read_ports)]
        span = f" [{port.width - 1}:0]" if port.width > 1 else ""
        comma = "," if i + 1 < len(kept) else ""
        lines.append(f"  {port.direction} wire{span} {port.name}{comma}")
    lines += [");", f"  {module} accelerator ("]
    lines += [
        f"    .{p.name}({'' if p.name in UNUSED else p.name}){',' if i + 1 < len(ports) else ''}"
        for i, p in enumerate(ports)
    ]
    lines += ["  );", "endmodule", "`default_nettype wire", ""]
    return "\n".join(lines)


def ports_of_verilog(text: str, module: str) -> list[Port]:
    """Ports of a module in the text that Amaranth exports, in the order of their declarations."""
    found = re.search(rf"^module {module}\b.*?^endmodule", text, re.MULTILINE | re.DOTALL)
    if found is None:
        raise PortError(f"there is no module {module} in the Verilog")
    declaration = re.compile(
        r"^\s*(input|output)\s+(?:wire\s+|reg\s+)?(?:\[(\d+):0\]\s*)?(\w+)\s*;", re.MULTILINE
    )
    return [
        Port(name, int(high or 0) + 1, direction)
        for direction, high, name in declaration.findall(found[0])
    ]


def _expect(known: dict[str, Port], name: str, direction: str, width: int | None) -> None:
    port = known.get(name)
    if port is None:
        raise PortError(f"the accelerator has no port {name}; export it with this version")
    if port.direction != direction or (width is not None and port.width != width):
        raise PortError(
            f"port {name} is {port.direction} of {port.width} bits; "
            f"{direction}{'' if width is None else f' of {width} bits'} is needed"
        )


def _attributes(
    port: Port, first: set[str], address_bits: int, read_ports: Sequence[str]
) -> list[str]:
    """Attributes of a port; the first one of an interface also carries the interface's."""
    interface = interface_of(port.name)
    if port.name == "ap_clk":
        buses = ":".join(required(read_ports))
        return [
            _info("xilinx.com:signal:clock:1.0", "ap_clk CLK"),
            _parameters("ap_clk", f"ASSOCIATED_BUSIF {buses}", "ASSOCIATED_RESET ap_rst_n"),
        ]
    if port.name == "ap_rst_n":
        return [
            _info("xilinx.com:signal:reset:1.0", "ap_rst_n RST"),
            _parameters("ap_rst_n", "POLARITY ACTIVE_LOW"),
        ]
    if port.name == "interrupt":
        return [
            _info("xilinx.com:signal:interrupt:1.0", "interrupt INTERRUPT"),
            _parameters("interrupt", "SENSITIVITY LEVEL_HIGH"),
        ]
    assert interface is not None
    signal = port.name.removeprefix(f"{interface}_").upper()
    lines = [_info("xilinx.com:interface:aximm:1.0", f"{interface} {signal}")]
    if interface not in first:
        first.add(interface)
        facts = facts_of(interface, address_bits).items()
        lines.append(_parameters(interface, *(f"{key} {value}" for key, value in facts)))
    return lines


def facts_of(interface: str, address_bits: int) -> dict[str, str]:
    """Parameters of an AXI interface, by Vivado's names; `address_bits` of the control port."""
    if interface == CONTROL:
        return {"PROTOCOL": "AXI4LITE", "DATA_WIDTH": "32", "ADDR_WIDTH": f"{address_bits}"}
    writes = interface.removeprefix("m_axi_") in WRITE_PORTS
    return {
        "PROTOCOL": "AXI4",
        "DATA_WIDTH": f"{DATA_BITS}",
        "ADDR_WIDTH": f"{ADDRESS_BITS}",
        "READ_WRITE_MODE": "READ_WRITE" if writes else "READ_ONLY",
        "MAX_BURST_LENGTH": "16",
        "SUPPORTS_NARROW_BURST": "0",
    }


def _info(kind: str, text: str) -> str:
    return f'(* X_INTERFACE_INFO = "{kind} {text}" *)'


def _parameters(interface: str, *facts: str) -> str:
    return (
        f'(* X_INTERFACE_PARAMETER = "{", ".join((f"XIL_INTERFACENAME {interface}", *facts))}" *)'
    )
