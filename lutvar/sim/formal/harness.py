# SPDX-License-Identifier: Apache-2.0
"""A module as it is exported, with an environment and requirements around it.

The module under proof is the Verilog that `lutvar verilog` would write for the component, not its
Amaranth source. Around it stands a wrapper: every input of the module is free in every cycle, and
the checker sees its ports. What the environment promises (`assume`) and what the module owes
(`require`) are expressions over ports and over registers of the checker.

Every register and memory word of the module starts with an unknown value, and reset is high in the
first cycle; it may come again in any later one. Checkers are reset together with the module.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from amaranth.back import rtlil  # type: ignore[attr-defined]  # its stubs leave this one out
from amaranth.hdl import (
    Cat,
    ClockDomain,
    Const,
    Elaboratable,
    Fragment,
    Instance,
    Module,
    Mux,
    Signal,
    Value,
)
from amaranth.hdl._ir import PortDirection
from amaranth.lib import wiring

from lutvar.hw.inspection import for_inspection
from lutvar.hw.verilog import export_verilog

DUT = "lutvar_dut"  #: name of the module under proof in its exported text
TOP = "proof"  #: name of the wrapper
STARTED = "started"  #: register of the wrapper that tells the first cycle from the others
#: Outputs of the wrapper: a requirement or a lemma is broken; a requirement is broken.
OPEN, BROKEN = "open", "broken"

C = TypeVar("C", bound=Any)


@dataclass
class Check(Generic[C]):
    """What a property's `check` function fills.

    Attributes:
        dut: the module under proof; its ports are signals of the wrapper.
        m: the checker. Registers in domain `sync` are reset with the module.
    """

    dut: C
    m: Module
    requirements: list[tuple[str, Value]] = field(default_factory=list)
    lemmas: list[tuple[str, Value]] = field(default_factory=list)
    assumptions: list[Value] = field(default_factory=list)
    inputs: dict[str, Signal] = field(default_factory=dict)
    probes: dict[str, Signal] = field(default_factory=dict)

    def require(self, name: str, condition: Any) -> None:
        """The module owes that `condition` holds in each cycle without reset."""
        self.requirements.append((name, Value.cast(condition).any()))

    def lemma(self, name: str, condition: Any) -> None:
        """A fact about registers that induction needs; it is proved along with the rest."""
        self.lemmas.append((name, Value.cast(condition).any()))

    def assume(self, condition: Any) -> None:
        """Nothing is claimed from the first cycle on in which `condition` does not hold."""
        self.assumptions.append(Value.cast(condition).any())

    def free(self, name: str, shape: Any = 1) -> Signal:
        """A value that is new and arbitrary in each cycle."""
        self.inputs[name] = signal = Signal(shape, name=name)
        return signal

    def rigid(self, name: str, shape: Any = 1) -> Signal:
        """An arbitrary value that stays the same until the next reset."""
        choice = self.free(f"{name}_choice", shape)
        value: Signal = Signal(shape, name=f"{name}_kept")
        drawn = Signal(name=f"{name}_drawn")
        result: Signal = Signal(shape, name=name)
        self.m.d.comb += result.eq(Mux(drawn, value, choice))
        self.m.d.sync += [drawn.eq(1), value.eq(result)]
        return result

    def probe(self, path: str, shape: Any = 1) -> Signal:
        """A register or wire inside the module, by its hierarchical name in the Verilog."""
        if path not in self.probes:
            self.probes[path] = Signal(shape, name="probe_" + re.sub(r"\W", "_", path))
        return self.probes[path]

    def previous(self, name: str, value: Any) -> Signal:
        """`value` one cycle ago, 0 in the first cycle after reset."""
        value = Value.cast(value)
        register = Signal(len(value), name=name)
        self.m.d.sync += register.eq(value)
        return register

    def wire(self, name: str, value: Any) -> Signal:
        """A named signal with this value, for traces."""
        value = Value.cast(value)
        signal = Signal(len(value), name=name)
        self.m.d.comb += signal.eq(value)
        return signal


def implies(condition: Any, consequence: Any) -> Value:
    """Where `condition` holds, `consequence` does too (one bit each)."""
    return ~Value.cast(condition).any() | Value.cast(consequence).any()


class _Wrapper(Elaboratable):
    """Clock, reset and the verdict around a checker and its module."""

    def __init__(self, check: Check[Any]) -> None:
        self.check = check
        self.open, self.broken = Signal(name=OPEN), Signal(name=BROKEN)
        self.reset = Signal(name="reset")
        self.clk = Signal(name="clk")
        self.members = [
            ("__".join(map(str, path)), Value.cast(value), member.flow)
            for path, member, value in check.dut.signature.flatten(check.dut)
        ]

    def ports(self) -> dict[str, tuple[Value, PortDirection]]:
        """Name in the wrapper -> (signal, direction)."""
        inputs: dict[str, Value] = {"clk": self.clk, "reset": self.reset}
        inputs |= self.check.inputs
        inputs |= {signal.name: signal for signal in self.check.probes.values()}
        inputs |= {f"in_{n}": v for n, v, flow in self.members if flow is wiring.In}
        outputs = {OPEN: self.open, BROKEN: self.broken}
        return {
            **{name: (value, PortDirection.Input) for name, value in inputs.items()},
            **{name: (value, PortDirection.Output) for name, value in outputs.items()},
        }

    def elaborate(self, platform: object) -> Module:
        m, check = self.check.m, self.check
        domain: Any = ClockDomain("sync")  # its stubs leave out clk and rst
        start: Any = ClockDomain("start", reset_less=True)
        m.domains += [domain, start]
        started = Signal(name=STARTED)
        m.d.start += started.eq(1)
        m.d.comb += [
            domain.clk.eq(self.clk),
            start.clk.eq(self.clk),
            domain.rst.eq(self.reset | ~started),
        ]
        connections: list[tuple[str, str, Any]] = [
            ("i", "clk", domain.clk),
            ("i", "rst", domain.rst),
        ]
        for name, value, flow in self.members:
            connections.append(("i" if flow is wiring.In else "o", name, value))
        m.submodules.dut = Instance(DUT, *connections)
        kept = Signal(init=1, name="assumptions_kept")  # so far
        now = Signal(name="assumptions_hold")
        m.d.comb += now.eq(kept & Cat(check.assumptions, Const(1)).all())
        m.d.sync += kept.eq(now)

        def failing(kind: str, conditions: list[tuple[str, Value]]) -> Value:
            signals = []
            for name, condition in conditions:
                signal = Signal(name=f"{kind}_{re.sub(r'[^a-zA-Z0-9]+', '_', name)}")
                m.d.comb += signal.eq(now & ~domain.rst & ~condition)
                signals.append(signal)
            return Cat(signals).any() if signals else Const(0)

        m.d.comb += [
            self.broken.eq(failing("broken", check.requirements)),
            self.open.eq(self.broken | failing("open", check.lemmas)),
        ]
        return m


@dataclass(frozen=True)
class Design:
    """Texts that Yosys reads.

    Attributes:
        verilog: the module under proof, as exported.
        wrapper: RTLIL of the wrapper.
        probes: port of the wrapper -> hierarchical name in the module.
        requirements: names, in order.
        lemmas: names, in order.
    """

    verilog: str
    wrapper: str
    probes: dict[str, str]
    requirements: tuple[str, ...]
    lemmas: tuple[str, ...]


def build(make: Callable[[], Any], check: Callable[[Check[Any]], None]) -> Design:
    """Export the module and write the wrapper around it.

    Raises ValueError when the check requires nothing.
    """
    verilog = export_verilog(make(), DUT)
    sheet: Check[Any] = Check(for_inspection(make()), Module())
    check(sheet)
    if not sheet.requirements:
        raise ValueError(f"the check of {type(sheet.dut).__name__} requires nothing of it")
    wrapper = _Wrapper(sheet)
    text, _names = rtlil.convert_fragment(
        Fragment.get(wrapper, None), wrapper.ports(), TOP, emit_src=False
    )
    return Design(
        verilog,
        text,
        {signal.name: path for path, signal in sheet.probes.items()},
        tuple(name for name, _ in sheet.requirements),
        tuple(name for name, _ in sheet.lemmas),
    )
