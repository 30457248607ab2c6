# SPDX-License-Identifier: Apache-2.0
"""The register file, generated from the register table: decode, storage, reset values, answers."""

from collections.abc import Collection, Mapping, Sequence
from functools import reduce
from operator import or_

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from lutvar.contract.register_types import ADDRESS_BITS, Access, Register
from lutvar.hw.port_types import RegisterBus

from .lite import RegisterBusSignature


def writable_bits(register: Register) -> int:
    """Mask of the bits that a write can change: the fields, or all 32 bits without fields."""
    if not register.fields:
        return 0xFFFFFFFF
    mask = 0
    for item in register.fields:
        mask |= ((1 << item.width) - 1) << item.low
    return mask


class RegisterFile(wiring.Component):
    """Storage and decode for a register table.

    A write changes the bytes with a strobe, of the bits that have a field (all bits when the
    register has no fields). Refused (`write_ok`/`read_ok` low): addresses that are not in the
    table or not aligned, and writes to read-only registers.

    Args:
        registers: the table.
        constants: values of read-only registers that never change, by name.
        live: names of RW registers whose bits live elsewhere; they get the members of a RO register
            (what is read) and of a WO register (ones written).
        watched: names of registers that need `<name>_seen`, high in the cycle of a read.

    Members, by register, in lower case:
        RW: `<name>` out, the value.
        RO: `<name>` in, the value, unless constant.
        WO: `<name>_write` out, bits written as 1, for one cycle.
        W1C: `<name>` in, the value; `<name>_write` out, bits to clear, for one cycle.
    """

    bus: RegisterBus  #: in: accesses

    def __init__(
        self,
        registers: Sequence[Register],
        *,
        constants: Mapping[str, int],
        live: Collection[str] = (),
        watched: Collection[str] = (),
    ) -> None:
        self._registers = tuple(registers)
        self._constants = dict(constants)
        self._live = frozenset(live)
        self._watched = frozenset(watched)
        by_name = {r.name: r for r in registers}
        for name in {*self._constants, *self._live, *self._watched}:
            if name not in by_name:
                raise ValueError(f"{name!r} is not a register; known: {', '.join(by_name)}")
        for name in self._constants:
            if by_name[name].access is not Access.RO:
                raise ValueError(f"{name} is {by_name[name].access.value}; only RO can be constant")
        members = {"bus": In(RegisterBusSignature(ADDRESS_BITS))}
        for register in self._registers:
            key = register.name.lower()
            if register.name in self._live or register.access is Access.W1C:
                members |= {key: In(32), f"{key}_write": Out(32)}
            elif register.access is Access.RW:
                members[key] = Out(32, init=register.reset)  # type: ignore[call-arg]  # stubs: `reset`
            elif register.access is Access.RO and register.name not in self._constants:
                members[key] = In(32)
            elif register.access is Access.WO:
                members[f"{key}_write"] = Out(32)
            if register.name in self._watched:
                members[f"{key}_seen"] = Out(1)
        super().__init__(members)

    def _value(self, register: Register) -> Value:
        """What a read returns."""
        if register.name in self._constants:
            return Const(self._constants[register.name], 32)
        if register.access is Access.WO:
            return Const(0, 32)
        return getattr(self, register.name.lower())

    def elaborate(self, platform: object) -> Module:
        m = Module()
        bus = self.bus
        strobes = Signal(32)  # bits of the write that count
        m.d.comb += strobes.eq(Cat(bus.write_strobe[bit // 8] for bit in range(32)))
        ones = Signal(32)
        m.d.comb += ones.eq(bus.write_data & strobes)

        # Decode and selection are separate steps, which keeps the wide selection shallow.
        chosen = Signal(len(self._registers))
        words = []
        for index, register in enumerate(self._registers):
            m.d.sync += chosen[index].eq(bus.read_address == register.offset)
            words.append(Mux(chosen[index], self._value(register), 0))
        m.d.sync += [bus.read_data.eq(_joined(words)), bus.read_ok.eq(chosen.any())]
        # So are decode and effect of a write, for soft reset and commands reach far.
        targets = Signal(len(self._registers))
        m.d.comb += bus.write_ok.eq(targets.any())

        for index, register in enumerate(self._registers):
            key = register.name.lower()
            mask = Const(writable_bits(register), 32)
            if register.access is not Access.RO:
                selected = Signal(name=f"write_{key}")
                m.d.sync += targets[index].eq(bus.write_address == register.offset)
                m.d.comb += selected.eq(bus.write & targets[index])
            # By access and not by the member's name, which may be that of another register.
            if register.name in self._live or register.access in (Access.W1C, Access.WO):
                with m.If(selected):
                    m.d.comb += getattr(self, f"{key}_write").eq(ones & mask)
            elif register.access is Access.RW:
                value = getattr(self, key)
                with m.If(selected):
                    taken = strobes & mask
                    m.d.sync += value.eq((value & ~taken) | (bus.write_data & taken))
            if register.name in self._watched:
                m.d.comb += getattr(self, f"{key}_seen").eq(bus.read & chosen[index])
        return m


def _joined(words: list[Value]) -> Value:
    """Words of which one at most is not 0: a tree, of three with their selects, then of six."""
    width = 3
    while len(words) > 1:
        parts = [words[low : low + width] for low in range(0, len(words), width)]
        words = [reduce(or_, part) for part in parts]
        width = 6
    return words[0]
