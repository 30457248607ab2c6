# SPDX-License-Identifier: Apache-2.0
"""The accelerator as Vivado and the host see it: AXI4-Lite, memory ports, an interrupt."""

from collections.abc import Mapping
from typing import Any

from amaranth.hdl import Cat, ClockDomain, Const, DomainRenamer, Module, Signal
from amaranth.hdl._ir import PortDirection
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from lutvar.contract.accelerator import AcceleratorConfig
from lutvar.contract.isa import UNITS
from lutvar.contract.register_map import (
    ADDRESS_BITS,
    READ_PORTS,
    WEIGHT_PORTS,
    WRITE_PORTS,
    read_ports,
)
from lutvar.hw.axi.lite import AxiLite, AxiLiteSignature
from lutvar.hw.fetch.unit import FetchUnit
from lutvar.hw.port_types import AxiLitePort, AxiReadPort, AxiReadWritePort
from lutvar.hw.sequencer.sequencer import Sequencer
from lutvar.hw.verilog import place, reset_stage

from .control import SETTLE_CYCLES, Control
from .ports import HANDSHAKES, AxiMasterSignature, connect_master

TOP_NAME = "lutvar_accelerator"


def _port_names(config: AcceleratorConfig) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*read_ports(config.weight_ports), *WRITE_PORTS)))


def _members(config: AcceleratorConfig) -> dict[str, Any]:
    ports = {
        f"m_axi_{name}": Out(AxiMasterSignature(read=name in READ_PORTS, write=name in WRITE_PORTS))
        for name in _port_names(config)
    }
    return {
        "interrupt": Out(1),
        "s_axi_control": In(AxiLiteSignature(ADDRESS_BITS)),
        **ports,
        "unit_busy": Out(len(UNITS)),
        "unit_active": Out(len(UNITS)),
    }


def make_units(config: AcceleratorConfig) -> dict[str, Any]:
    """The units of a build by name, FETCH included."""
    from lutvar.hw.attend.unit import AttendUnit
    from lutvar.hw.front.unit import FrontUnit
    from lutvar.hw.matrix.unit import MatrixUnit
    from lutvar.hw.post.unit import PostUnit

    return {
        "fetch": FetchUnit(config),
        "front": FrontUnit(config),
        "matrix": MatrixUnit(config),
        "post": PostUnit(config),
        "attend": AttendUnit(config),
    }


class _AcceleratorPorts(wiring.Component):
    """Base: ports of the accelerator but clock and reset, see `_members`."""

    interrupt: Signal  #: out: level
    s_axi_control: AxiLitePort  #: in: AXI4-Lite, 4 KiB, see `contract/register_map`
    m_axi_prog: AxiReadPort  #: out: reads of the program
    m_axi_wgt: AxiReadPort  #: out: reads of weights
    m_axi_wgt1: AxiReadPort  #: out: reads of weights; only with two weight ports or more
    m_axi_wgt2: AxiReadPort  #: out: reads of weights; only with four weight ports
    m_axi_wgt3: AxiReadPort  #: out: reads of weights; only with four weight ports
    m_axi_front: AxiReadPort  #: out: reads of activations
    m_axi_post: AxiReadWritePort  #: out: reads of factors and rows, writes of results
    m_axi_keys: AxiReadPort  #: out: reads of q and K records
    m_axi_values: AxiReadWritePort  #: out: reads of V records, writes of results
    unit_busy: Signal  #: out: one bit for each unit, for tracing; one cycle late
    unit_active: Signal  #: out: one bit for each unit, for tracing; one cycle late


class AcceleratorCore(_AcceleratorPorts):
    """Everything but the clock domains `bus` and `sync`, which are on one clock.

    Args:
        config: the build.
        units: units by name (`make_units`); others with the same members may stand in.
        settle: see `Control`.
    """

    core_reset: Signal  #: out: the reset of `sync`

    def __init__(
        self,
        config: AcceleratorConfig,
        units: Mapping[str, Any] | None = None,
        *,
        settle: int = SETTLE_CYCLES,
    ) -> None:
        self._config, self._settle = config, settle
        self._units = dict(units) if units is not None else make_units(config)
        super().__init__({**_members(config), "core_reset": Out(1, init=1)})  # type: ignore[call-arg]  # stubs: still `reset`

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.submodules.axi_lite = axi_lite = DomainRenamer("bus")(AxiLite(ADDRESS_BITS))
        m.submodules.control = control = Control(self._config, settle=self._settle)

        def branch(name: str) -> Signal:
            """The reset one stage ahead of `sync`; each unit has a register of its own."""
            return reset_stage(m, platform, "bus", control.core_reset, f"reset_{name}")

        sequencer = Sequencer(self._config)
        place(
            m, platform, "sequencer", sequencer, "sequencer",
            spread=True, reset=branch("sequencer"),
        )  # fmt: skip
        wiring.connect(m, wiring.flipped(self.s_axi_control), axi_lite.axi)
        wiring.connect(m, axi_lite.bus, control.bus)
        m.d.comb += [
            axi_lite.hold.eq(control.bus_hold),
            self.interrupt.eq(control.interrupt),
            self.core_reset.eq(reset_stage(m, platform, "bus", branch("core"), "reset_leaf")),
        ]
        units = self._units
        for name, unit in units.items():
            place(
                m, platform, f"unit_{name}", unit, f"unit_{name}",
                spread=True, reset=branch(name),
            )  # fmt: skip
        self._steer(m, control, sequencer)
        for source, sink in zip(units["fetch"].weights, units["matrix"].weights, strict=True):
            wiring.connect(m, source, sink)
        m.d.comb += [
            units["matrix"].bank_write.eq(units["front"].bank_write),
            units["matrix"].drain.eq(units["post"].drain),
            units["post"].drained.eq(units["matrix"].drained),
        ]
        reads = {
            "prog": sequencer.memory,
            **dict(zip(WEIGHT_PORTS, units["fetch"].memory, strict=False)),
            "front": units["front"].memory, "post": units["post"].read,
            "keys": units["attend"].keys_memory, "values": units["attend"].values_memory,
        }  # fmt: skip
        writes = {"post": units["post"].write, "values": units["attend"].write}
        for name in _port_names(self._config):
            port = getattr(self, f"m_axi_{name}")
            connect_master(m, port, read=reads.get(name), write=writes.get(name), mute=control.mute)
        self._observe(m, control)
        return m

    def _steer(self, m: Module, control: Control, sequencer: Sequencer) -> None:
        for name in ("start", "program", "bases", "windows", "serial", "halt", "stop"):
            m.d.comb += getattr(sequencer, name).eq(getattr(control, name))
        for name in (
            "running", "finished", "progress", "bad_header", "bad_instruction", "bad_info",
            "completed", "incomplete", "empty", "waiting", "dispatching", "ending",
        ):  # fmt: skip
            m.d.comb += getattr(control, name).eq(getattr(sequencer, name))
        units = [self._units[unit.name.lower()] for unit in UNITS]
        stop = Signal(init=1)  # on its way to the units
        m.d.bus += stop.eq(control.stop)
        for unit, part in zip(UNITS, units, strict=True):
            number = int(unit)
            wiring.connect(m, getattr(sequencer, f"command_{unit.name.lower()}"), part.command)
            m.d.comb += [
                sequencer.dones[number].eq(part.done),
                control.done[number].eq(part.done),
                control.busy[number].eq(part.busy),
                control.active[number].eq(part.active),
                part.stop.eq(stop),
            ]
        idle = Signal()
        m.d.sync += idle.eq(sequencer.idle & Cat(part.idle for part in units).all())
        matrix = self._units["matrix"]
        m.d.comb += [
            control.idle.eq(idle),
            control.issue.eq(matrix.issue),
            control.wait_weights.eq(matrix.wait_weights),
            control.surplus.eq(matrix.surplus),
            control.missing.eq(matrix.missing),
            control.weights_index.eq(matrix.weights_index),
        ]
        fetch, front, post, attend = (
            self._units[name] for name in ("fetch", "front", "post", "attend")
        )
        for unit in (fetch, front, post, attend):
            m.d.comb += unit.windows.eq(control.windows)
        reads = {
            "prog": sequencer.report, **dict(zip(WEIGHT_PORTS, fetch.reports, strict=False)),
            "front": front.reports[0], "post": post.reports[0],
            "keys": attend.reports[0], "values": attend.reports[1],
        }  # fmt: skip
        writes = {"post": post.reports[1], "values": attend.reports[2]}
        for number, name in enumerate(READ_PORTS):
            if name in reads:
                m.d.comb += control.reports[number].eq(reads[name])
        for number, name in enumerate(WRITE_PORTS, start=len(READ_PORTS)):
            m.d.comb += control.reports[number].eq(writes[name])
        m.d.sync += [self.unit_busy.eq(control.busy), self.unit_active.eq(control.active)]

    def _observe(self, m: Module, control: Control) -> None:
        """What the registers see of the memory ports."""
        bits, writes = [], []
        built = _port_names(self._config)
        for number, name in enumerate(READ_PORTS):
            if name not in built:
                bits += [Const(0, 3)]
                continue
            port = getattr(self, f"m_axi_{name}")
            beat = port.rvalid & port.rready
            bits += [port.arvalid, port.arready, port.rvalid]
            m.d.comb += control.read_beats[number].eq(beat)
        for number, name in enumerate(WRITE_PORTS):
            port = getattr(self, f"m_axi_{name}")
            writes += [port.awvalid, port.awready, port.wvalid, port.wready, port.bvalid]
            m.d.comb += control.write_beats[number].eq(port.wvalid & port.wready)
        m.d.comb += [control.ports.eq(Cat(bits)), control.ports_write.eq(Cat(writes))]
        answers = [getattr(self, f"m_axi_{name}").rvalid for name in READ_PORTS if name in built]
        answers += [getattr(self, f"m_axi_{name}").bvalid for name in WRITE_PORTS]
        m.d.bus += control.arrivals.eq(Cat(*answers).any())


class Accelerator(_AcceleratorPorts):
    """The top: clock domains around `AcceleratorCore`.

    Reset: `ap_rst_n` is synchronous and active low; it resets everything, whatever its length.
    While it is low and until the units have left reset, no VALID is high on any port. CTRL.ready
    rises when the memory has been quiet for `SETTLE_CYCLES`. SOFT_RESET resets the units alone,
    after their memory ports have ended what they began.

    The ports `m_axi_*` are AXI4, 512 bit, one ID, INCR bursts of at most 1 KiB that do not cross a
    multiple of 1 KiB.
    """

    ap_clk: Signal  #: in: clock of everything
    ap_rst_n: Signal  #: in: reset, synchronous and active low

    def __init__(self, config: AcceleratorConfig, units: Mapping[str, Any] | None = None) -> None:
        self._config, self._units = config, units
        super().__init__({"ap_clk": In(1), "ap_rst_n": In(1), **_members(config)})

    def port_map(self) -> dict[str, tuple[Signal, PortDirection]]:
        """Port name in Verilog -> (signal, direction), in declaration order."""
        return {
            "_".join(path): (
                value,
                PortDirection.Input if member.flow is In else PortDirection.Output,
            )
            for path, member, value in self.signature.flatten(self)
        }

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.submodules.core = core = AcceleratorCore(self._config, self._units)
        for name, reset in (("bus", ~self.ap_rst_n), ("sync", core.core_reset)):
            domain: Any = ClockDomain(name)  # its stubs leave out clk and rst
            domain.clk = self.ap_clk
            m.domains += domain
            m.d.comb += domain.rst.eq(reset)
        for path, member, value in core.signature.flatten(core):
            if path[0] == "core_reset":
                continue
            outer: Any = self
            for step in path:
                outer = getattr(outer, str(step))
            if member.flow is In:
                m.d.comb += value.eq(outer)
            elif path[-1] in HANDSHAKES:
                m.d.comb += outer.eq(value & self.ap_rst_n)
            else:
                m.d.comb += outer.eq(value)
        return m
