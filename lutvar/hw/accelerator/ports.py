# SPDX-License-Identifier: Apache-2.0
"""AXI4 ports as Vivado infers them, and what the registers want to know about them."""

from typing import Any

from amaranth.hdl import Module, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from lutvar.hw.links import axi_read, axi_write

#: What every burst says: whole beats of 64 bytes, INCR, normal memory.
#:
#: AxCACHE is 0b0010, Normal Non-cacheable Non-bufferable. A bufferable write (0b0011) may be
#: answered from an intermediate point, and nothing tells when it is visible at its destination
#: (ARM IHI 0022, A4.4 "Memory types"); but DONE promises that every port and the host see all
#: results, and it relies on the response alone. Modifiable stays set: the NoC cuts bursts into 256
#: bytes and widths into 128 bits, of modifiable transactions freely, and of AxCACHE it carries that
#: bit alone (AMD PG313, "AXI Conversion Overview" and "NoC Master Unit"), so this costs nothing
#: there; its master unit answers a write when the destination has answered every part ("Write
#: Response Tracker").
_CONSTANTS = {
    "id": (1, 0), "size": (3, 6), "burst": (2, 1), "lock": (1, 0), "cache": (4, 0b0010),
    "prot": (3, 0), "qos": (4, 0),
}  # fmt: skip


#: Outputs that are low while `ap_rst_n` is: VALIDs, which AXI asks for, and what the control port
#: takes.
HANDSHAKES = frozenset(
    {"arvalid", "awvalid", "wvalid", "rvalid", "bvalid", "arready", "awready", "wready"}
)


class AxiMasterSignature(wiring.Signature):
    """AXI4 with 512-bit data and 64-bit addresses, seen from the master."""

    def __init__(self, *, read: bool, write: bool) -> None:
        members: dict[str, Any] = {}
        for present, channel, signature, answer in (
            (write, "aw", axi_write(), "bid"),
            (read, "ar", axi_read(), "rid"),
        ):
            if present:
                members |= {f"{channel}{k}": Out(width) for k, (width, _) in _CONSTANTS.items()}
                members |= dict(signature.members)
                members[answer] = In(1)
        super().__init__(members)


def connect_master(
    m: Module, port: Any, *, mute: Value, read: Any = None, write: Any = None
) -> None:
    """Connect a unit's memory interface (`links.axi_read`/`axi_write`) to a port of the top.

    `mute` holds VALIDs low.
    """
    for unit, channel, signature in ((read, "ar", axi_read()), (write, "aw", axi_write())):
        if unit is None:
            continue
        for name, member in signature.members.items():
            inner, outer = getattr(unit, name), getattr(port, name)
            source, sink = (inner, outer) if member.flow is Out else (outer, inner)
            silent = member.flow is Out and name in HANDSHAKES
            m.d.comb += sink.eq(source & ~mute if silent else source)
        for name, (_, value) in _CONSTANTS.items():
            m.d.comb += getattr(port, f"{channel}{name}").eq(value)
