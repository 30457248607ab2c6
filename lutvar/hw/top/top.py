# SPDX-License-Identifier: Apache-2.0
"""The core as Vivado and the host see it: one AXI4-Lite port, three AXI4-Streams, an interrupt."""

from typing import Any

from amaranth.hdl import ClockDomain, DomainRenamer, Module, Signal
from amaranth.hdl._ir import PortDirection
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from lutvar.contract.config import HardwareConfig, QuantConfig
from lutvar.contract.registers import ADDRESS_BITS

from .axi_lite import AxiLite, AxiLiteSignature
from .control import ENGINE_STATUS, Control
from .stream_slice import StreamSlice

TOP_NAME = "lutvar_top"


class AxiStreamSignature(wiring.Signature):
    """AXI4-Stream with TLAST, seen from the master; ``keep`` adds TKEEP."""

    def __init__(self, nbytes: int, *, keep: bool = False):
        members = {"tdata": Out(8 * nbytes), "tvalid": Out(1), "tready": In(1), "tlast": Out(1)}
        if keep:
            members["tkeep"] = Out(nbytes)
        super().__init__(members)


class Top(wiring.Component):
    """Registers, stream slices and the matrix engine behind AXI ports.

    Reset: ``ap_rst_n`` is synchronous and active low. The engine and the streams leave reset one
    cycle after the control port. After an error both input streams stop within two beats; a result
    that was already offered stays offered (AXI4-Stream forbids taking it back), no further one
    appears.

    Latency that the top adds: 1 cycle in each stream.

    Args:
        hardware, quant: the build.
        engine: the compute engine; default: :class:`lutvar.hw.matrix.MatrixEngine`. Another
            component with
            the same members may stand in for it.

    Members:
        ap_clk, ap_rst_n, interrupt: see above; interrupt is a level.
        s_axi_control: AXI4-Lite.
        s_axis_act, s_axis_wgt: inputs. m_axis_out: results, TKEEP always all ones.
    """

    def __init__(self, hardware: HardwareConfig, quant: QuantConfig, engine: Any = None):
        if engine is None:
            from lutvar.hw.matrix.engine import MatrixEngine

            engine = MatrixEngine(hardware, quant)
        self.hardware, self.quant, self._engine = hardware, quant, engine
        nbytes = hardware.stream_bytes
        super().__init__({
            "ap_clk": In(1), "ap_rst_n": In(1), "interrupt": Out(1),
            "s_axi_control": In(AxiLiteSignature(ADDRESS_BITS)),
            "s_axis_act": In(AxiStreamSignature(nbytes)),
            "s_axis_wgt": In(AxiStreamSignature(nbytes)),
            "m_axis_out": Out(AxiStreamSignature(nbytes, keep=True)),
        })  # fmt: skip

    def port_map(self) -> dict[str, tuple[Signal, PortDirection]]:
        """Port name in Verilog -> (signal, direction), in declaration order."""
        return {
            "_".join(path): (
                value,
                PortDirection.Input if member.flow is In else PortDirection.Output,
            )
            for path, member, value in self.signature.flatten(self)
        }

    def elaborate(self, platform):
        m = Module()
        m.submodules.axi_lite = axi_lite = DomainRenamer("bus")(AxiLite(ADDRESS_BITS))
        m.submodules.engine = engine = self._engine
        m.submodules.control = control = Control(self.hardware, self.quant, engine.job.p.shape())
        self._domains(m, control)

        wiring.connect(m, wiring.flipped(self.s_axi_control), axi_lite.axi)
        wiring.connect(m, axi_lite.bus, control.bus)
        wiring.connect(m, control.job, engine.job)
        m.d.comb += [axi_lite.hold.eq(control.bus_hold), self.interrupt.eq(control.interrupt)]
        m.d.comb += [getattr(control, name).eq(getattr(engine, name)) for name in ENGINE_STATUS]

        for side, port, inner in (
            ("act", self.s_axis_act, engine.act),
            ("wgt", self.s_axis_wgt, engine.wgt),
        ):
            m.submodules[f"slice_{side}"] = part = StreamSlice(inner.p.shape())
            m.d.comb += [
                part.i.p.data.eq(port.tdata), part.i.p.last.eq(port.tlast),
                part.i.valid.eq(port.tvalid), port.tready.eq(part.i.ready),
            ]  # fmt: skip
            wiring.connect(m, part.o, inner)
            self._observe(m, control, side, port, part)

        out = self.m_axis_out
        m.submodules.slice_out = part = StreamSlice(engine.out.p.shape())
        wiring.connect(m, engine.out, part.i)
        m.d.comb += [
            out.tdata.eq(part.o.p.data), out.tlast.eq(part.o.p.last), out.tkeep.eq(~0),
            out.tvalid.eq(part.o.valid), part.o.ready.eq(out.tready),
        ]  # fmt: skip
        self._observe(m, control, "out", out, part)
        m.d.comb += engine.halt.eq(control.halt)
        return m

    def _domains(self, m, control):
        """Two domains on one clock: ap_rst_n resets both, SOFT_RESET only ``sync``."""
        for name, reset in (("bus", ~self.ap_rst_n), ("sync", control.core_reset)):
            domain = ClockDomain(name)
            domain.clk = self.ap_clk
            m.domains += domain
            m.d.comb += domain.rst.eq(reset)

    def _observe(self, m, control, side, port, part):
        m.d.comb += [
            getattr(control, f"{side}_valid").eq(port.tvalid),
            getattr(control, f"{side}_ready").eq(port.tready),
            part.halt.eq(control.halt),
        ]
