# SPDX-License-Identifier: Apache-2.0
"""The control port at its pins: every register, every answer, every order of the channels."""

import random

import cocotb
from cocotb.triggers import RisingEdge

from lutvar.contract.registers import BY_NAME, REGISTERS, Access
from lutvar.hw.top.control import constants
from lutvar.hw.top.register_file import writable_bits

from .common import OKAY, SLVERR, Bench, pauses

RESET = {r.name: r.reset for r in REGISTERS}
STORED = [r for r in REGISTERS if r.access is Access.RW and r.name != "CTRL"]


class Port:
    """Drives the five channels pin by pin."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench

    def pin(self, name: str):
        return self._bench.pin("s_axi_control", name)

    async def _tick(self) -> None:
        await RisingEdge(self._bench.dut.ap_clk)

    async def write(self, address, data, strobe=0xF, *, aw=0, w=0, b=0) -> int:
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

    async def read(self, address, *, r=0) -> tuple[int, int]:
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
async def reset_values(dut) -> None:
    """Every register reads its reset value or build constant, every other address SLVERR and 0."""
    bench = await Bench.start(dut, models=False)
    port = Port(bench)
    expected = RESET | constants(bench.hardware, bench.quant)
    by_offset = {r.offset: r for r in REGISTERS}
    addresses = [*range(0, 0xC0, 4), 0x01, 0x12, 0x43, 0x71, 0x100, 0x410, 0x840, 0xFFC, 0xFFF]
    for address in addresses:
        data, response = await port.read(address, r=address // 4 % 3)
        register = by_offset.get(address)
        if register is None:
            assert (data, response) == (0, SLVERR), f"{address:#x}: {data:#x}, {response}"
        elif register.name == "STATE":
            ready = {f.name: f.low for f in register.fields if f.name in ("act_ready", "wgt_ready")}
            assert (data, response) == (sum(1 << low for low in ready.values()), OKAY), hex(data)
        else:
            assert (data, response) == (expected[register.name], OKAY), (
                f"{register.name}: {data:#x}, reset value {expected[register.name]:#x}"
            )


@cocotb.test()
async def access_types(dut) -> None:
    """Writes change what they may, nothing else; read-only registers and holes answer SLVERR."""
    bench = await Bench.start(dut, models=False)
    port = Port(bench)
    model = {r.offset: r.reset for r in STORED}
    rng = random.Random(1)
    for address in [*range(0, 0xC0, 4), 0x11, 0x72, 0x110, 0x870]:
        register = next((r for r in REGISTERS if r.offset == address), None)
        writable = register is not None and register.access is not Access.RO
        # A start or a reset would be obeyed; the benches of jobs and errors do that.
        value = 0 if address in (BY_NAME["CTRL"].offset, BY_NAME["SOFT_RESET"].offset) else (
            rng.getrandbits(32)
        )  # fmt: skip
        response = await port.write(address, value)
        assert response == (OKAY if writable else SLVERR), f"{address:#x} answered {response}"
        if address in model:
            model[address] = value & writable_bits(register)
    for offset, value in model.items():
        assert await port.read(offset) == (value, OKAY), f"{offset:#x}"
    for name, value in constants(bench.hardware, bench.quant).items():
        assert await port.read(BY_NAME[name].offset) == (value, OKAY), name


@cocotb.test()
async def channel_order_and_strobes(dut) -> None:
    """Address first, data first, both; answers taken late; every strobe pattern."""
    bench = await Bench.start(dut, models=False)
    port = Port(bench)
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
async def random_pauses_on_all_channels(dut) -> None:
    """Reads and writes at the same time, with every channel resting at random."""
    bench = await Bench.start(dut)
    channels = (
        bench.bus.write_if.aw_channel, bench.bus.write_if.w_channel, bench.bus.write_if.b_channel,
        bench.bus.read_if.ar_channel, bench.bus.read_if.r_channel,
    )  # fmt: skip
    for index, channel in enumerate(channels):
        channel.set_pause_generator(pauses(0.5, index))
    values = {r.name: (r.offset * 0x9E3779B1) & writable_bits(r) for r in STORED}

    async def read_constants() -> None:
        for _ in range(8):
            for name, value in constants(bench.hardware, bench.quant).items():
                assert await bench.read(name) == value, name

    reader = cocotb.start_soon(read_constants())
    for name, value in values.items():
        await bench.write(name, value)
    await reader
    for name, value in values.items():
        assert await bench.read(name) == value, name
