# SPDX-License-Identifier: Apache-2.0
"""Types of ports, for annotations of components whose signature depends on parameters.

A port whose shape is known when the class is written is an annotation that Amaranth reads,
`name: In(width)`. Others are listed in the constructor, and the class says of what type they are,
`name: Signal`, which Amaranth ignores and a type checker reads.
"""

from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from amaranth.hdl import Signal
from amaranth.lib import data, stream, wiring

if TYPE_CHECKING:
    #: A struct or an array: fields by attribute or item.
    View: TypeAlias = data.View[Any]
else:
    View = data.View

#: A stream: payload, valid, ready.
Stream: TypeAlias = stream.Interface


def view_signal(layout: data.Layout, *, reset_less: bool = False) -> View:
    """`Signal(layout)`, which makes a view of a signal; type checkers take it for the signal.

    Its name is the variable's.
    """
    view: Any = Signal(layout, reset_less=reset_less, src_loc_at=1)
    return view


class _Interface(Protocol):
    """What `wiring.connect` asks of an interface."""

    @property
    def signature(self) -> wiring.Signature:
        """Its ports."""


class AxiReadPort(_Interface, Protocol):
    """AR and R channels, see `links.axi_read`."""

    araddr: Signal
    arlen: Signal
    arvalid: Signal
    arready: Signal
    rdata: Signal
    rresp: Signal
    rlast: Signal
    rvalid: Signal
    rready: Signal


class AxiWritePort(_Interface, Protocol):
    """AW, W and B channels, see `links.axi_write`."""

    awaddr: Signal
    awlen: Signal
    awvalid: Signal
    awready: Signal
    wdata: Signal
    wstrb: Signal
    wlast: Signal
    wvalid: Signal
    wready: Signal
    bresp: Signal
    bvalid: Signal
    bready: Signal


class AxiReadWritePort(AxiReadPort, AxiWritePort, Protocol):
    """All five channels."""


class AxiLitePort(_Interface, Protocol):
    """The five channels of an AXI4-Lite port, see `axi.lite.AxiLiteSignature`."""

    awaddr: Signal
    awvalid: Signal
    awready: Signal
    wdata: Signal
    wstrb: Signal
    wvalid: Signal
    wready: Signal
    bresp: Signal
    bvalid: Signal
    bready: Signal
    araddr: Signal
    arvalid: Signal
    arready: Signal
    rdata: Signal
    rresp: Signal
    rvalid: Signal
    rready: Signal


class RegisterBus(_Interface, Protocol):
    """Accesses to a register file, see `axi.lite.RegisterBusSignature`."""

    write: Signal
    write_address: Signal
    write_data: Signal
    write_strobe: Signal
    write_ok: Signal
    read: Signal
    read_address: Signal
    read_data: Signal
    read_ok: Signal
