# SPDX-License-Identifier: Apache-2.0
"""Register file and AXI4-Lite slave: every register of the table, every rule, any handshake."""

import gc
import random

import pytest
from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In
from amaranth.sim import Simulator

from lutvar.contract.register_map import BY_NAME, REGISTERS
from lutvar.contract.register_types import ADDRESS_BITS, Access, Field, Register
from lutvar.hw.axi.lite import OKAY, SLVERR, AxiLite, AxiLiteSignature
from lutvar.hw.axi.register_file import RegisterFile, writable_bits
from lutvar.hw.port_types import AxiLitePort

LIVE = ("CTRL",)
CONSTANT = {"MAGIC": 0x11223344, "VERSION": 0x55667788}
WATCHED = ("CTRL", "CYCLES_LO")
OFFSETS = {r.offset for r in REGISTERS}


class Device(wiring.Component):
    """AXI4-Lite slave with a register file behind it."""

    axi: AxiLitePort
    hold: Signal

    def __init__(self):
        super().__init__({"axi": In(AxiLiteSignature(ADDRESS_BITS)), "hold": In(1)})
        self.registers = RegisterFile(REGISTERS, constants=CONSTANT, live=LIVE, watched=WATCHED)

    def elaborate(self, platform):
        m = Module()
        m.submodules.slave = slave = AxiLite(ADDRESS_BITS)
        m.submodules.registers = self.registers
        wiring.connect(m, wiring.flipped(self.axi), slave.axi)
        wiring.connect(m, slave.bus, self.registers.bus)
        m.d.comb += slave.hold.eq(self.hold)
        return m


class Bus:
    """AXI4-Lite master for a testbench, with delays chosen by the test."""

    def __init__(self, ctx, axi):
        self.ctx, self.axi = ctx, axi

    async def write(self, address, data, *, strobe=0xF, aw_delay=0, w_delay=0, b_delay=0):
        """Drive both channels, each after its own delay; returns BRESP."""
        ctx, axi = self.ctx, self.axi
        waiting = {"aw": aw_delay, "w": w_delay}
        sent = set()
        response = None
        cycle = 0
        while response is None:
            for channel, delay in waiting.items():
                on = cycle >= delay and channel not in sent
                ctx.set(getattr(axi, f"{channel}valid"), on)
                # Garbage while not valid must not matter.
                if channel == "aw":
                    ctx.set(axi.awaddr, address if on else ~address)
                else:
                    ctx.set(axi.wdata, data if on else ~data)
                    ctx.set(axi.wstrb, strobe if on else ~strobe)
            ctx.set(axi.bready, len(sent) == 2 and cycle >= b_delay)
            *_, aw, w, b, code = await ctx.tick().sample(
                axi.awvalid & axi.awready,
                axi.wvalid & axi.wready,
                axi.bvalid & axi.bready,
                axi.bresp,
            )
            sent |= {name for name, moved in (("aw", aw), ("w", w)) if moved}
            if b:
                assert len(sent) == 2, "answered before address and data were taken"
                response = code
            cycle += 1
            assert cycle < 100
        ctx.set(axi.bready, 0)
        return response

    async def read(self, address, *, delay=0):
        """Returns (data, RRESP); RREADY comes `delay` cycles late, RDATA must not move."""
        ctx, axi = self.ctx, self.axi
        ctx.set(axi.araddr, address)
        ctx.set(axi.arvalid, 1)
        await ctx.tick().until(axi.arready)
        ctx.set(axi.arvalid, 0)
        ctx.set(axi.araddr, ~address)
        while not ctx.get(axi.rvalid):
            await ctx.tick()
        first = ctx.get(axi.rdata), ctx.get(axi.rresp)
        for _ in range(delay):
            await ctx.tick()
        assert ctx.get(axi.rvalid) and (ctx.get(axi.rdata), ctx.get(axi.rresp)) == first
        ctx.set(axi.rready, 1)
        await ctx.tick()
        ctx.set(axi.rready, 0)
        return first


def run(body):
    """Run an async body(device, ctx, bus) against a fresh device."""
    device = Device()

    async def testbench(ctx):
        await body(device, ctx, Bus(ctx, device.axi))

    sim = Simulator(device)
    sim.add_clock(1e-6)
    sim.add_testbench(testbench)
    sim.run()


def test_every_address_reads_its_reset_value_or_slverr():
    async def body(device, ctx, bus):
        for register in REGISTERS:
            key = register.name.lower()
            outside = register.access in (Access.RO, Access.W1C) or register.name in LIVE
            if outside and register.name not in CONSTANT:
                ctx.set(getattr(device.registers, key), register.offset * 0x01010101)
        for address in [*range(0, 0x100), 0x100 | 0x10, 0x800, 0x810, 0xC40, 0xFFC]:
            data, response = await bus.read(address, delay=address % 3)
            found = [r for r in REGISTERS if r.offset == address]
            if not found:
                assert (data, response) == (0, SLVERR), hex(address)
                continue
            (register,) = found
            expected = CONSTANT.get(register.name, register.reset)
            if register.access is Access.WO:
                expected = 0
            elif hasattr(device.registers, register.name.lower()) and (
                register.access is not Access.RW or register.name in LIVE
            ):
                expected = register.offset * 0x01010101
            assert (data, response) == (expected, OKAY), register.name

    run(body)


def test_writes_follow_the_access_type_and_leave_other_registers_alone():
    stored = [r for r in REGISTERS if r.access is Access.RW and r.name not in LIVE]

    async def body(device, ctx, bus):
        model = {r.offset: r.reset for r in stored}
        rng = random.Random(1)
        for address in [*range(0, 0x100), 0x110, 0x824, 0xFFC]:
            value = rng.getrandbits(32)
            response = await bus.write(address, value)
            register = next((r for r in REGISTERS if r.offset == address), None)
            allowed = register is not None and register.access is not Access.RO
            assert response == (OKAY if allowed else SLVERR), hex(address)
            if register in stored:
                model[address] = value & writable_bits(register)
            for offset, expected in model.items():
                assert ctx.get(getattr(device.registers, name_at(offset))) == expected
        for offset, expected in model.items():
            assert await bus.read(offset) == (expected, OKAY)

    run(body)


def name_at(offset):
    return next(r.name.lower() for r in REGISTERS if r.offset == offset)


@pytest.mark.parametrize("aw_delay, w_delay", [(0, 0), (0, 1), (1, 0), (0, 5), (5, 0)])
@pytest.mark.parametrize("b_delay", [0, 12])
def test_address_and_data_come_in_any_order(aw_delay, w_delay, b_delay):
    async def body(device, ctx, bus):
        delays = {"aw_delay": aw_delay, "w_delay": w_delay, "b_delay": b_delay}
        scratch, rows = BY_NAME["SCRATCH"].offset, BY_NAME["BASE0_HI"].offset
        value = 0
        for strobe in range(16):
            new = 0x11111111 * (15 - strobe) ^ 0x01234567
            mask = sum(0xFF << 8 * byte for byte in range(4) if strobe >> byte & 1)
            assert await bus.write(scratch, new, strobe=strobe, **delays) == OKAY
            value = (value & ~mask) | (new & mask)
            assert ctx.get(device.registers.scratch) == value
            assert await bus.write(rows, strobe, **delays) == OKAY
            assert await bus.read(scratch) == (value, OKAY)
            assert ctx.get(device.registers.base0_hi) == strobe

    run(body)


def test_pulses_last_one_cycle_and_respect_strobes():
    async def body(device, ctx, bus):
        registers = device.registers
        for name, value, strobe, expected in (
            ("CTRL", 0xFFFFFFFF, 0xF, 0xF), ("CTRL", 0xFFFFFFFF, 0xE, 0),
            ("ISR", 0x2, 0xF, 0x2), ("ISR", 0x302, 0x2, 0), ("SOFT_RESET", 1, 0x1, 1),
            ("SOFT_RESET", 1, 0x2, 0),
        ):  # fmt: skip
            signal = getattr(registers, f"{name.lower()}_write")
            pulses = []
            # The write needs a few cycles; collect the pulse in each of them.
            ctx.set(device.axi.awvalid, 1)
            ctx.set(device.axi.wvalid, 1)
            ctx.set(device.axi.awaddr, BY_NAME[name].offset)
            ctx.set(device.axi.wdata, value)
            ctx.set(device.axi.wstrb, strobe)
            ctx.set(device.axi.bready, 1)
            for _ in range(10):
                *_, aw, w, pulse = await ctx.tick().sample(
                    device.axi.awready, device.axi.wready, signal
                )
                if aw:
                    ctx.set(device.axi.awvalid, 0)
                if w:
                    ctx.set(device.axi.wvalid, 0)
                if pulse:
                    pulses.append(pulse)
            assert pulses == ([expected] if expected else []), name

    run(body)


def test_read_strobes_fire_once_for_their_register_only():
    async def body(device, ctx, bus):
        counts = dict.fromkeys(WATCHED, 0)

        for register in REGISTERS:
            ctx.set(device.axi.araddr, register.offset)
            ctx.set(device.axi.arvalid, 1)
            ctx.set(device.axi.rready, 1)
            for _ in range(8):
                *_, ar, ctrl, cycles = await ctx.tick().sample(
                    device.axi.arready, device.registers.ctrl_seen, device.registers.cycles_lo_seen
                )
                if ar:
                    ctx.set(device.axi.arvalid, 0)
                counts["CTRL"] += ctrl and register.name == "CTRL"
                counts["CYCLES_LO"] += cycles and register.name == "CYCLES_LO"
                assert not ctrl or register.name == "CTRL"
                assert not cycles or register.name == "CYCLES_LO"
        assert counts == dict.fromkeys(WATCHED, 1)

    run(body)


def test_held_accesses_wait_and_then_happen():
    async def body(device, ctx, bus):
        ctx.set(device.hold, 1)
        ctx.set(device.axi.arvalid, 1)
        ctx.set(device.axi.araddr, BY_NAME["WATCHDOG"].offset)
        await ctx.tick().repeat(20)
        ctx.set(device.axi.arvalid, 0)
        assert not ctx.get(device.axi.rvalid) and not ctx.get(device.axi.arready)
        ctx.set(device.hold, 0)
        await ctx.tick().repeat(2)
        assert ctx.get(device.axi.rvalid) and ctx.get(device.axi.rdata) == BY_NAME["WATCHDOG"].reset

    run(body)


@pytest.mark.filterwarnings("ignore::amaranth.hdl.UnusedElaboratable")
def test_table_mistakes_are_refused():
    table = (Register("A", 0, Access.RW, "", fields=(Field("x", 0, 1, ""),)),)
    with pytest.raises(ValueError, match="'B' is not a register; known: A"):
        RegisterFile(table, constants={}, live=("B",))
    with pytest.raises(ValueError, match="A is read and write; only RO"):
        RegisterFile(table, constants={"A": 1})
    gc.collect()  # the refused components vanish while their warning is ignored
