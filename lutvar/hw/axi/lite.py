# SPDX-License-Identifier: Apache-2.0
"""AXI4-Lite slave that turns handshakes into single-cycle register accesses."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from lutvar.hw.port_types import AxiLitePort, RegisterBus

OKAY = 0b00
SLVERR = 0b10


class AxiLiteSignature(wiring.Signature):
    """The five channels of an AXI4-Lite port with 32-bit data, seen from the master.

    PROT is left out: it is optional for a slave that does not tell accesses apart.
    """

    def __init__(self, address_bits: int) -> None:
        super().__init__({
            "awaddr": Out(address_bits), "awvalid": Out(1), "awready": In(1),
            "wdata": Out(32), "wstrb": Out(4), "wvalid": Out(1), "wready": In(1),
            "bresp": In(2), "bvalid": In(1), "bready": Out(1),
            "araddr": Out(address_bits), "arvalid": Out(1), "arready": In(1),
            "rdata": In(32), "rresp": In(2), "rvalid": In(1), "rready": Out(1),
        })  # fmt: skip


class RegisterBusSignature(wiring.Signature):
    """Register accesses, seen from the bus side.

    `write` and `read` are high for one cycle. `write_ok` answers in the same cycle,
    `read_ok` and `read_data` (0 unless ok) in the next one, with the value of this cycle.
    `write_address` and `read_address` are there at least one cycle before `write` and
    `read`.
    """

    def __init__(self, address_bits: int) -> None:
        super().__init__({
            "write": Out(1), "write_address": Out(address_bits), "write_data": Out(32),
            "write_strobe": Out(4), "write_ok": In(1),
            "read": Out(1), "read_address": Out(address_bits), "read_data": In(32),
            "read_ok": In(1),
        })  # fmt: skip


class AxiLite(wiring.Component):
    """AXI4-Lite to register accesses.

    Address and data of a write may come in any order and any distance. An access that the register
    file refuses is answered with SLVERR, and read data 0. One access of each direction is in
    flight; a write completes every 4 cycles at best, a read every 6. Every output towards the bus
    is a flip-flop.

    Args:
        address_bits: width of AWADDR and ARADDR, bytes.
    """

    axi: AxiLitePort  #: in: the port
    bus: RegisterBus  #: out: accesses to the register file
    hold: Signal  #: in: delays accesses (they wait, they are not refused)

    def __init__(self, address_bits: int) -> None:
        super().__init__(
            {
                "axi": In(AxiLiteSignature(address_bits)),
                "bus": Out(RegisterBusSignature(address_bits)),
                "hold": In(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        axi, bus = self.axi, self.bus
        # Ready flip-flops start at 0, so that nothing is taken during reset; a request taken is
        # kept in the holding registers of `bus` until the answer is delivered.
        aw_held = Signal()
        w_held = Signal()
        ar_held = Signal()

        with m.If(axi.awvalid & axi.awready):
            m.d.sync += [aw_held.eq(1), bus.write_address.eq(axi.awaddr), axi.awready.eq(0)]
        with m.Elif(~aw_held):
            m.d.sync += axi.awready.eq(1)
        with m.If(axi.wvalid & axi.wready):
            m.d.sync += [
                w_held.eq(1), bus.write_data.eq(axi.wdata), bus.write_strobe.eq(axi.wstrb),
                axi.wready.eq(0),
            ]  # fmt: skip
        with m.Elif(~w_held):
            m.d.sync += axi.wready.eq(1)

        settled = Signal()
        m.d.sync += settled.eq(aw_held)
        m.d.comb += bus.write.eq(aw_held & settled & w_held & ~axi.bvalid & ~self.hold)
        with m.If(bus.write):
            m.d.sync += [axi.bvalid.eq(1), axi.bresp.eq(Mux(bus.write_ok, OKAY, SLVERR))]
        with m.If(axi.bvalid & axi.bready):
            m.d.sync += [axi.bvalid.eq(0), aw_held.eq(0), w_held.eq(0)]

        with m.If(axi.arvalid & axi.arready):
            m.d.sync += [ar_held.eq(1), bus.read_address.eq(axi.araddr), axi.arready.eq(0)]
        with m.Elif(~ar_held):
            m.d.sync += axi.arready.eq(1)
        decoded = Signal()
        looked_up = Signal()
        m.d.comb += bus.read.eq(ar_held & decoded & ~looked_up & ~axi.rvalid & ~self.hold)
        m.d.sync += [decoded.eq(ar_held), looked_up.eq(bus.read)]
        with m.If(looked_up):
            m.d.sync += [
                axi.rvalid.eq(1),
                axi.rresp.eq(Mux(bus.read_ok, OKAY, SLVERR)),
                axi.rdata.eq(bus.read_data),
            ]
        with m.If(axi.rvalid & axi.rready):
            m.d.sync += [axi.rvalid.eq(0), ar_held.eq(0)]
        return m
