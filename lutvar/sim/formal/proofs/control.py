# SPDX-License-Identifier: Apache-2.0
"""The control port: AXI4-Lite handshakes, and the register file behind them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from amaranth.hdl import Cat, Const, Mux, Signal, Value

from lutvar.contract.accelerator import load_accelerator
from lutvar.contract.register_map import ADDRESS_BITS, REGISTERS
from lutvar.contract.register_types import Access
from lutvar.hw.accelerator.words import constants
from lutvar.hw.axi.lite import AxiLite
from lutvar.hw.axi.register_file import RegisterFile
from lutvar.sim.formal.harness import Check, implies
from lutvar.sim.formal.property import Mutant, Property

from .order import prompt, stable

_LITE = "lutvar.hw.axi.lite"
_FILE = "lutvar.hw.axi.register_file"


def _axi_lite(c: Check[AxiLite]) -> None:
    axi, bus, m = c.dut.axi, c.dut.bus, c.m
    stable(c, "B", axi.bvalid, axi.bready, axi.bresp)
    stable(c, "R", axi.rvalid, axi.rready, Cat(axi.rdata, axi.rresp))

    def held(name: str, taken: Any, answered: Any) -> Signal:
        """A request was taken and is not answered; at most one."""
        state = Signal(name=f"{name}_open")
        m.d.sync += state.eq((state & ~answered) | taken)
        c.require(f"{name}: one at a time", ~(taken & state))
        c.require(f"{name}: no answer without a request", implies(answered, state))
        return state

    written = c.wire("written", axi.bvalid & axi.bready)
    aw_taken = c.wire("aw_taken", axi.awvalid & axi.awready)
    w_taken = c.wire("w_taken", axi.wvalid & axi.wready)
    aw = held("AW", aw_taken, written)
    w = held("W", w_taken, written)
    read = c.wire("read_answered", axi.rvalid & axi.rready)
    ar_taken = c.wire("ar_taken", axi.arvalid & axi.arready)
    ar = held("AR", ar_taken, read)
    c.require("B after AW and W", implies(axi.bvalid, aw & w))
    c.require("R after AR", implies(axi.rvalid, ar))

    def kept(name: str, taken: Any, value: Any) -> Signal:
        copy = Signal(len(value), name=f"{name}_copy")
        with m.If(taken):
            m.d.sync += copy.eq(value)
        return copy

    # Each write reaches the registers once, with its address, data and strobes, and is answered
    # with what they say.
    done, answer = Signal(name="write_done"), Signal(name="write_answer")
    with m.If(bus.write):
        m.d.sync += [done.eq(1), answer.eq(bus.write_ok)]
    with m.Elif(written):
        m.d.sync += done.eq(0)
    c.require("a write reaches the registers once", implies(bus.write, aw & w & ~done))
    c.require("B after the write", axi.bvalid == done)
    c.require("B is OKAY or SLVERR", implies(axi.bvalid, axi.bresp == Mux(answer, 0, 2)))
    address = kept("awaddr", aw_taken, axi.awaddr)
    data = kept("wdata", w_taken, Cat(axi.wdata, axi.wstrb))
    c.require("address of a write", implies(aw, bus.write_address == address))
    c.require("data of a write", implies(w, Cat(bus.write_data, bus.write_strobe) == data))
    aw_before = c.previous("aw_before", aw & ~written)
    c.require("a write's address is early", implies(bus.write, aw_before))
    # Likewise a read, whose answer comes a cycle later.
    looked, ready = c.previous("looked_up", bus.read), Signal(name="read_done")
    got = Signal(34, name="read_answer")
    with m.If(looked):
        m.d.sync += [ready.eq(1), got.eq(Cat(bus.read_data, Mux(bus.read_ok, 0, 2)))]
    with m.Elif(read):
        m.d.sync += ready.eq(0)
    c.require("a read reaches the registers once", implies(bus.read, ar & ~ready & ~looked))
    c.require("R after the read", axi.rvalid == ready)
    c.require("R is what the registers said", implies(ready, Cat(axi.rdata, axi.rresp) == got))
    from_address = kept("araddr", ar_taken, axi.araddr)
    c.require("address of a read", implies(ar, bus.read_address == from_address))
    ar_before = c.previous("ar_before", ar & ~read)
    c.require("a read's address is early", implies(bus.read, ar_before))

    # Bounded: while `hold` is low, which it always is but in a soft reset.
    hold = c.dut.hold
    b = prompt(c, "B", aw & w & ~hold, axi.bvalid | hold, 2)
    r = prompt(c, "R", ar & ~hold, axi.rvalid | hold, 4)
    ready_ages = [
        prompt(c, f"{n} ready", ~state, getattr(axi, f"{n}ready"), 2)
        for n, state in (("aw", aw), ("w", w), ("ar", ar))
    ]
    settled, decoded = c.probe("dut.settled"), c.probe("dut.decoded")
    c.lemma("held", Cat(*(c.probe(f"dut.{n}_held") for n in ("aw", "w", "ar"))) == Cat(aw, w, ar))
    for name, signal, state, before in (
        ("settled", settled, aw, aw_before), ("decoded", decoded, ar, ar_before)
    ):  # fmt: skip
        c.lemma(name, signal == c.previous(f"{name}_copy", state))
        c.lemma(f"{name} in time", implies(state, signal == before))
    c.lemma("looked up", c.probe("dut.looked_up") == looked)
    c.lemma("a look-up waits", implies(looked, ar & ~ready & decoded))
    c.lemma("B age", implies(aw & w & ~axi.bvalid, b <= settled))
    c.lemma("R age", implies(ar & ~axi.rvalid, (r <= decoded + looked) & implies(looked, decoded)))
    for n, state, age in zip(("aw", "w", "ar"), (aw, w, ar), ready_ages, strict=True):
        c.lemma(f"{n}ready", implies(getattr(axi, f"{n}ready"), ~state))
        c.lemma(f"{n}ready age", implies(~state & ~getattr(axi, f"{n}ready"), age == 0))


def _make_file() -> RegisterFile:
    return RegisterFile(
        REGISTERS, constants=constants(load_accelerator("small-fp4")), live=("CTRL",),
        watched=("CTRL", "CYCLES_LO"),
    )  # fmt: skip


def _registers(c: Check[RegisterFile]) -> None:
    dut: Any = c.dut
    bus, m = dut.bus, c.m
    fixed = constants(load_accelerator("small-fp4"))
    write_before = c.previous("write_address_before", bus.write_address)
    read_before = c.previous("read_address_before", bus.read_address)
    c.assume(~bus.write | (bus.write_address == write_before))
    c.assume(~bus.read | (bus.read_address == read_before))
    fresh = Signal(name="address_known")  # not in the first cycle after a reset
    m.d.sync += fresh.eq(1)
    c.assume(fresh | (~bus.write & ~bus.read))
    strobes = Cat(bus.write_strobe[byte].replicate(8) for byte in range(4))

    def at(address: Value, register: Any) -> Value:
        return address == register.offset

    writable = [r for r in REGISTERS if r.access is not Access.RO]
    accepted = Cat(at(bus.write_address, r) for r in writable).any()
    c.require("writes are refused exactly at other addresses",
              implies(bus.write, bus.write_ok == accepted))  # fmt: skip
    answers: list[Value] = []
    for register in REGISTERS:
        key = register.name.lower()
        mask = 0
        for item in register.fields:
            mask |= ((1 << item.width) - 1) << item.low
        mask = mask if register.fields else 0xFFFFFFFF
        here = c.wire(f"writes_{key}", bus.write & at(bus.write_address, register))
        taken = strobes & Const(mask, 32)
        # By access and not by the member's name, which may be that of another register.
        if register.name == "CTRL" or register.access in (Access.W1C, Access.WO):
            ones = Mux(here, bus.write_data & taken, 0)
            c.require(f"{key}: ones written", getattr(dut, f"{key}_write") == ones)
        value: Any = Const(0, 32)
        if register.name in fixed:
            value = Const(fixed[register.name], 32)
        elif register.access is not Access.WO:
            value = getattr(dut, key)
        if register.access is Access.RW and register.name != "CTRL":
            copy = Signal(32, name=f"{key}_copy", init=register.reset)
            with m.If(here):
                m.d.sync += copy.eq((copy & ~taken) | (bus.write_data & taken))
            c.require(f"{key}: value", value == copy)
        if register.name in ("CTRL", "CYCLES_LO"):
            seen = bus.read & at(bus.read_address, register)
            c.require(f"{key}: seen", getattr(dut, f"{key}_seen") == seen)
        answers.append(Mux(at(bus.read_address, register), Cat(value, Const(1, 1)), 0))
    answer: Value = Const(0, 33)
    for each in answers:
        answer = answer | each
    was_read = c.previous("was_read", bus.read)
    expected = c.previous("expected", answer)
    c.require("reads: value, 0 and refused at other addresses",
              implies(was_read, Cat(bus.read_data, bus.read_ok) == expected))  # fmt: skip
    targets = c.probe("dut.targets", len(REGISTERS))
    chosen = c.probe("dut.chosen", len(REGISTERS))
    for number, register in enumerate(REGISTERS):
        if register.access is not Access.RO:
            c.lemma(f"decode of writes to {register.name}",
                    implies(fresh, targets[number] == at(write_before, register)))  # fmt: skip
        else:
            c.lemma(f"no writes to {register.name}", ~targets[number])
        c.lemma(f"decode of reads of {register.name}",
                implies(fresh, chosen[number] == at(read_before, register)))  # fmt: skip


def properties() -> Iterator[Property]:
    """All of this file."""
    yield Property(
        "control.axi-lite", "AxiLite",
        "AXI4-Lite: responses stable and one for each request, in order; each access reaches the "
        "registers once, unchanged; response within 2 cycles of a write's address and data, 4 of "
        "a read's address; ready again within 2",
        lambda: AxiLite(ADDRESS_BITS), _axi_lite,
        mutants=(
            Mutant("b-early", _LITE, "bus.write.eq(aw_held & settled & w_held",
                   "bus.write.eq(aw_held & settled"),
            Mutant("r-unstable", _LITE, "~looked_up & ~axi.rvalid & ~self.hold", "~self.hold"),
            Mutant("aw-twice", _LITE, "with m.Elif(~aw_held):", "with m.Else():"),
            Mutant("error-lost", _LITE, "Mux(bus.read_ok, OKAY, SLVERR)", "OKAY"),
        ),
    )  # fmt: skip
    yield Property(
        "control.registers", f"RegisterFile, all {len(REGISTERS)} registers",
        "the table as specified: reset values, writable bits and strobes, RO, WO, W1C, constants; "
        "every other address is refused and reads 0",
        _make_file, _registers,
        mutants=(
            Mutant("ro-writable", _FILE, "if register.access is not Access.RO:\n    ",
                   "if True:\n    "),
            Mutant("strobes-ignored", _FILE, "ones.eq(bus.write_data & strobes)",
                   "ones.eq(bus.write_data)"),
            Mutant("all-bits", _FILE, "taken = strobes & mask", "taken = strobes"),
            Mutant("half-decoded", _FILE, "chosen[index].eq(bus.read_address == register.offset)",
                   "chosen[index].eq(bus.read_address[:11] == register.offset)"),
        ),
    )  # fmt: skip
