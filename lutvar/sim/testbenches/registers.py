# SPDX-License-Identifier: Apache-2.0
"""The control port at its pins: every register, every answer, every order of the channels."""

import random
from typing import Any

import cocotb
from cocotb.triggers import RisingEdge

from lutvar.contract.isa import UNITS, Instruction, Opcode
from lutvar.contract.register_map import BY_NAME, REGISTERS
from lutvar.contract.register_types import Access
from lutvar.host.compile.program import Program, accelerator_hash
from lutvar.hw.accelerator.control import SETTLE_CYCLES
from lutvar.hw.accelerator.words import constants
from lutvar.hw.axi.register_file import writable_bits

from .common import OKAY, SLVERR, Testbench, pauses

RESET = {r.name: r.reset for r in REGISTERS}
STORED = [r for r in REGISTERS if r.access is Access.RW and r.name != "CTRL"]
LAST = max(r.offset for r in REGISTERS)
#: Registers of the live state, and which fields read 1 when nothing has happened yet.
LIVE = {"STATE": {"quiet", *(f"empty_{u.name.lower()}" for u in UNITS)}}


class Port:
    """Drives the five channels pin by pin."""

    def __init__(self, tb: Testbench) -> None:
        self._tb = tb

    def pin(self, name: str) -> Any:
        """A pin of the port, by its name without prefix."""
        return getattr(self._tb.dut, f"s_axi_control_{name}")

    async def _tick(self) -> None:
        await RisingEdge(self._tb.dut.ap_clk)

    async def write(
        self, address: int, data: int, strobe: int = 0xF, *, aw: int = 0, w: int = 0, b: int = 0
    ) -> int:
        """Each channel starts after its own delay. Returns BRESP."""
        waiting, cycle = {"aw": aw, "w": w}, 0
        while waiting or not (self.pin("bvalid").value and cycle > b):
            for channel, delay in waiting.items():
                on = cycle >= delay
                self.pin(f"{channel}valid").value = int(on)
                garbage = random.getrandbits(12)
                if channel == "aw":
                    self.pin("awaddr").value = address if on else garbage
                else:
                    self.pin("wdata").value = data & 0xFFFFFFFF if on else garbage
                    self.pin("wstrb").value = strobe if on else garbage & 0xF
            self.pin("bready").value = 0
            await self._tick()
            for channel in list(waiting):
                if self.pin(f"{channel}valid").value and self.pin(f"{channel}ready").value:
                    del waiting[channel]
                    self.pin(f"{channel}valid").value = 0
            if waiting:
                assert not self.pin("bvalid").value, "BVALID before address and data were taken"
            cycle += 1
            assert cycle < 200, f"write to {address:#x} was not answered"
        response = int(self.pin("bresp").value)
        self.pin("bready").value = 1
        await self._tick()
        self.pin("bready").value = 0
        await self._tick()
        assert not self.pin("bvalid").value, "a second answer to one write"
        return response

    async def read(self, address: int, *, r: int = 0) -> tuple[int, int]:
        """RREADY comes r cycles after RVALID. Returns (data, RRESP)."""
        self.pin("araddr").value = address
        self.pin("arvalid").value = 1
        for _ in range(200):
            await self._tick()
            if self.pin("arready").value:
                break
        self.pin("arvalid").value = 0
        self.pin("araddr").value = random.getrandbits(12)
        for _ in range(200):
            await self._tick()
            if self.pin("rvalid").value:
                break
        else:
            raise AssertionError(f"read of {address:#x} was not answered")
        answer = int(self.pin("rdata").value), int(self.pin("rresp").value)
        for _ in range(r):
            await self._tick()
            assert self.pin("rvalid").value, "RVALID fell before RREADY"
            assert (int(self.pin("rdata").value), int(self.pin("rresp").value)) == answer
        self.pin("rready").value = 1
        await self._tick()
        self.pin("rready").value = 0
        await self._tick()
        assert not self.pin("rvalid").value, "a second answer to one read"
        return answer


@cocotb.test()
async def reset_values(dut: Any) -> None:
    """Every register reads its reset value or build constant, every other address SLVERR and 0."""
    tb = await Testbench.start(dut, bus=False)
    port = Port(tb)
    await tb.cycles(SETTLE_CYCLES + 64)  # until CTRL.ready
    expected = RESET | constants(tb.config)
    expected["CTRL"] |= 1 << next(f.low for f in BY_NAME["CTRL"].fields if f.name == "ready")
    for name, ones in LIVE.items():
        expected[name] = sum(1 << f.low for f in BY_NAME[name].fields if f.name in ones)
    by_offset = {r.offset: r for r in REGISTERS}
    holes = [LAST + 4, LAST + 8, 0x01, 0x12, 0x43, 0x71, 0x400, 0x840, 0xFFC, 0xFFF]
    for address in [*range(0, LAST + 4, 4), *holes]:
        found = await port.read(address, r=address // 4 % 3)
        register = by_offset.get(address)
        if register is None:
            assert found == (0, SLVERR), f"{address:#x}: {found[0]:#x}, {found[1]}"
        elif register.name in ("PORTS", "PORTS_WRITE"):
            ready = {f.low for f in register.fields if f.name.endswith("ready")}
            assert found[1] == OKAY and not found[0] & ~sum(1 << low for low in ready)
        else:
            assert found == (expected[register.name], OKAY), (
                f"{register.name}: {found[0]:#x}, reset value {expected[register.name]:#x}"
            )


@cocotb.test()
async def access_types(dut: Any) -> None:
    """Writes change what they may, nothing else; read-only registers and holes answer SLVERR."""
    tb = await Testbench.start(dut, bus=False)
    port = Port(tb)
    model = {r.offset: r.reset for r in STORED}
    rng = random.Random(1)
    for address in [*range(0, LAST + 8, 4), 0x11, 0x72, 0x410, 0x870]:
        register = next((r for r in REGISTERS if r.offset == address), None)
        writable = register is not None and register.access is not Access.RO
        # A start or a reset would be obeyed; other testbenches do that.
        obeyed = register is not None and register.name in ("CTRL", "SOFT_RESET")
        value = 0 if obeyed else rng.getrandbits(32)
        response = await port.write(address, value)
        assert response == (OKAY if writable else SLVERR), f"{address:#x} answered {response}"
        if register is not None and address in model:
            model[address] = value & writable_bits(register)
    for offset, value in model.items():
        assert await port.read(offset) == (value, OKAY), f"{offset:#x}"
    for name, value in constants(tb.config).items():
        assert await port.read(BY_NAME[name].offset) == (value, OKAY), name


@cocotb.test()
async def channel_order_and_strobes(dut: Any) -> None:
    """Address first, data first, both; answers taken late; every strobe pattern."""
    tb = await Testbench.start(dut, bus=False)
    port = Port(tb)
    scratch = BY_NAME["SCRATCH"].offset
    value, strobe = 0, 0
    for delays in ((0, 0), (0, 1), (1, 0), (0, 7), (7, 0)):
        for late in (0, 9):
            strobe = (strobe + 5) % 16
            new = random.Random(strobe).getrandbits(32)
            mask = sum(0xFF << 8 * byte for byte in range(4) if strobe >> byte & 1)
            value = (value & ~mask) | (new & mask)
            assert await port.write(scratch, new, strobe, aw=delays[0], w=delays[1], b=late) == OKAY
            assert await port.read(scratch, r=late) == (value, OKAY), f"strobe {strobe:04b}"


@cocotb.test()
async def random_pauses_on_all_channels(dut: Any) -> None:
    """Reads and writes at the same time, with every channel resting at random."""
    tb = await Testbench.start(dut)
    channels = (
        tb.bus.write_if.aw_channel, tb.bus.write_if.w_channel, tb.bus.write_if.b_channel,
        tb.bus.read_if.ar_channel, tb.bus.read_if.r_channel,
    )  # fmt: skip
    for index, channel in enumerate(channels):
        channel.set_pause_generator(pauses(0.5, index))
    values = {r.name: (r.offset * 0x9E3779B1) & writable_bits(r) for r in STORED}

    async def read_constants() -> None:
        for _ in range(6):
            for name, value in constants(tb.config).items():
                assert await tb.read(name) == value, name

    reader = cocotb.start_soon(read_constants())
    for name, value in values.items():
        await tb.write(name, value)
    await reader
    for name, value in values.items():
        assert await tb.read(name) == value, name


@cocotb.test()
async def control_and_interrupt(dut: Any) -> None:
    """CTRL as XRT expects it, ISR, GIE, IER and the interrupt line over programs of END alone."""
    tb = await Testbench.start(dut)
    raw = Program((Instruction(Opcode.END),), accelerator_hash(tb.config)).encode()
    ctrl = {f.name: 1 << f.low for f in BY_NAME["CTRL"].fields}
    rest = ctrl["idle"] | ctrl["ready"]
    isr = {f.name: 1 << f.low for f in BY_NAME["ISR"].fields}
    await tb.open({})
    assert await tb.read("CTRL") == rest and await tb.read("ISR") == 0
    tb.memory.silent = {("prog", False)}
    await tb.start_program(raw)
    assert await tb.read("CTRL") == 0, "a program that runs is neither idle nor ready nor done"
    await tb.write("CTRL", 1)  # ignored while a program runs
    assert not dut.interrupt.value
    tb.memory.silent = set()
    await tb.wait(200)
    assert await tb.read("ISR") == isr["done"]
    assert await tb.read("CTRL") == rest | ctrl["done"]
    assert await tb.read("CTRL") == rest, "reading clears done"
    assert await tb.read("PROGRAMS") == 1
    await tb.write("ISR", isr["error"])
    assert await tb.read("ISR") == isr["done"], "writing 0 clears nothing"
    for name, on in (("GIE", 1), ("IER", 3)):
        await tb.write(name, 0)
        await tb.cycles(2)
        assert not dut.interrupt.value, f"{name} masks the interrupt"
        await tb.write(name, on)
        await tb.cycles(2)
        assert dut.interrupt.value
    await tb.write("ISR", isr["done"])
    await tb.cycles(2)
    assert not dut.interrupt.value and await tb.read("ISR") == 0
    cycles = await tb.read64("CYCLES")
    await tb.run(raw, 200)
    assert await tb.read("PROGRAMS") == 2
    later = await tb.read64("CYCLES")
    assert 0 < cycles < later
    assert await tb.read64("CYCLES") == later, "cycles are counted while a program runs"
