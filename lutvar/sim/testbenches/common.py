# SPDX-License-Identifier: Apache-2.0
"""What every testbench needs: clock, reset, bus models, rules that must hold at all times."""

import json
import logging
import os
import random
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cocotb
from cocotb.clock import Clock
from cocotb.triggers import ClockCycles, FallingEdge, First, RisingEdge
from cocotbext.axi import AxiLiteBus, AxiLiteMaster

from lutvar.contract.accelerator import BEAT_BYTES, AcceleratorConfig
from lutvar.contract.isa import Region
from lutvar.contract.register_map import BY_NAME, DeviceError, read_ports

from .memory import Memory

if TYPE_CHECKING:
    from lutvar.host.device_status import DeviceSnapshot

SETTINGS = "LUTVAR_TESTBENCH"  #: environment variable: path of the runner's settings file
#: Environment variable: folder in which programs and errors are noted, for coverage.
RECORD = "LUTVAR_RECORD"
OKAY, SLVERR = 0, 2
READY_LIMIT, READY_POLL = 8192, 64  #: cycles that a reset may take; from poll to poll
SILENT = 16  #: cycles after a reset in which no burst can start
#: Bases that share no bits, so that a region taken for another one is not missed.
BASES = {
    Region.MODEL: 0x0001_0000_0000, Region.WORK: 0x0022_0040_0000,
    Region.IO: 0x0333_0008_0000, Region.CACHE: 0x4444_0000_C000,
}  # fmt: skip
#: Programs lie behind the last region, in its window.
PROGRAM, PROGRAM_SIZE = BASES[Region.CACHE] + 0x0015_0000_0000, 1 << 20


def settings() -> dict[str, Any]:
    """What the runner has written for this simulation."""
    return json.loads(Path(os.environ[SETTINGS]).read_text(encoding="utf-8"))


def record(name: str, content: bytes) -> None:
    """Append to a file of the folder `RECORD`, when there is one."""
    if folder := os.environ.get(RECORD):
        with Path(folder, name).open("ab") as file:
            file.write(content)


def build_ports() -> tuple[str, ...]:
    """Read ports of the build under test."""
    return read_ports(settings()["accelerator"]["weight_ports"])


def pauses(probability: float, seed: int) -> Iterable[bool]:
    """Endless random pauses for a bus model."""
    rng = random.Random(seed)
    while True:
        yield rng.random() < probability


class Testbench:
    """An accelerator with a clock, an AXI4-Lite master and memory.

    Attributes:
        config: the build under test.
        four_state: the simulator knows X.
        bus: AXI4-Lite master of cocotbext-axi; missing when `start` was told so.
        memory: behind all memory ports.
    """

    bus: AxiLiteMaster

    def __init__(self, dut: Any) -> None:
        data = settings()
        self.dut = dut
        self.config = AcceleratorConfig.model_validate(data["accelerator"])
        self.four_state: bool = data["four_state"]
        self.ports = data["ports"]
        self.memory = Memory(dut, read_ports(self.config.weight_ports))

    @classmethod
    async def start(cls, dut: Any, *, bus: bool = True) -> "Testbench":
        """Reset the accelerator and attach the models (a testbench that drives the control pins
        itself wants no `bus`)."""
        tb = cls(dut)
        for port in tb.ports:
            if port["direction"] == "input":
                getattr(dut, port["name"]).value = 0
        Clock(dut.ap_clk, 4, unit="ns").start()
        if bus:
            logging.getLogger(f"cocotb.{dut._name}.s_axi_control").setLevel(logging.WARNING)
            ends = (dut.ap_clk, dut.ap_rst_n, False)
            tb.bus = AxiLiteMaster(AxiLiteBus.from_prefix(dut, "s_axi_control"), *ends)
        cocotb.start_soon(tb.memory.serve())
        cocotb.start_soon(tb.watch_reset())
        await tb.pulse(4)
        if tb.four_state:
            cocotb.start_soon(tb.watch_unknown())
        if bus:
            await tb.ready()
        return tb

    async def cycles(self, count: int) -> None:
        """Wait for clock cycles."""
        await ClockCycles(self.dut.ap_clk, count)

    async def reset(self, cycles: int = 4) -> None:
        """Pulse ap_rst_n for some cycles, and wait until a program may start."""
        await self.pulse(cycles)
        if hasattr(self, "bus"):
            await self.ready()

    async def pulse(self, cycles: int) -> None:
        """Hold ap_rst_n low for some cycles."""
        self.dut.ap_rst_n.value = 0
        await self.cycles(cycles)
        self.dut.ap_rst_n.value = 1
        await self.cycles(2)

    async def ready(self) -> None:
        """Wait for CTRL.ready, for `READY_LIMIT` cycles at most."""
        for _ in range(0, READY_LIMIT, READY_POLL):
            if await self.field("CTRL", "ready"):
                return
            await self.cycles(READY_POLL)
        raise AssertionError(
            f"CTRL.ready is 0 {READY_LIMIT} cycles after a reset. {await self.snapshot()}"
        )

    # Registers

    async def read(self, name: str) -> int:
        """Value of a register."""
        answer = await self.bus.read(BY_NAME[name].offset, 4)
        assert answer.resp == OKAY, f"reading {name} was answered with {answer.resp}"
        return int.from_bytes(answer.data, "little")

    async def write(self, name: str, value: int) -> None:
        """Write a register."""
        data = (value & 0xFFFFFFFF).to_bytes(4, "little")
        answer = await self.bus.write(BY_NAME[name].offset, data)
        assert answer.resp == OKAY, f"writing {name} was answered with {answer.resp}"

    async def read64(self, name: str) -> int:
        """Value of a pair of registers, `<name>_LO` and `<name>_HI`."""
        return await self.read(f"{name}_LO") | await self.read(f"{name}_HI") << 32

    async def write64(self, name: str, value: int) -> None:
        """Write a pair of registers."""
        await self.write(f"{name}_LO", value)
        await self.write(f"{name}_HI", value >> 32)

    async def field(self, register: str, field: str) -> int:
        """Value of a register's field."""
        return BY_NAME[register].field_value(await self.read(register), field)

    async def open(self, sizes: dict[Region, int]) -> None:
        """Give the regions memory, open them, as a driver does; enable interrupts."""
        for region in Region:
            size, base = sizes.get(region, 0), BASES[region]
            limit = base + -(-size // BEAT_BYTES) * BEAT_BYTES
            if size:
                self.memory.segments[base] = bytearray(size)
            if region is Region.CACHE:
                limit = PROGRAM + PROGRAM_SIZE
            await self.write64(f"BASE{int(region)}", base)
            await self.write64(f"LIMIT{int(region)}", limit)
        self.memory.segments[PROGRAM] = bytearray()
        await self.write64("PROGRAM", PROGRAM)
        await self.write("IER", 3)
        await self.write("GIE", 1)

    async def soft_reset(self) -> None:
        """SOFT_RESET, and wait until it is over, for 40 polls at most."""
        await self.write("SOFT_RESET", 1)
        for _ in range(40):
            if not await self.field("STATE", "resetting"):
                break
        else:
            raise AssertionError("the soft reset does not end")
        await self.ready()

    # Programs

    def put(self, region: Region, content: bytes, offset: int = 0) -> None:
        """Write to a region's memory, behind the accelerator's back."""
        self.memory.write(BASES[region] + offset, content)

    def get(self, region: Region, offset: int, count: int) -> bytes:
        """Read from a region's memory."""
        return self.memory.read(BASES[region] + offset, count)

    async def start_program(self, raw: bytes) -> None:
        """Put an encoded program into memory, and start it."""
        record("programs", len(raw).to_bytes(4, "little") + raw)
        self.memory.segments[PROGRAM] = bytearray(raw)
        await self.write("ISR", 3)
        await self.write("CTRL", 1)

    async def wait(self, limit: int) -> None:
        """Until the interrupt rises; `limit` counts cycles."""
        if not self.dut.interrupt.value:
            await First(RisingEdge(self.dut.interrupt), ClockCycles(self.dut.ap_clk, limit))
        await self.cycles(1)
        if not self.dut.interrupt.value:
            raise AssertionError(f"no interrupt in {limit} cycles. {await self.snapshot()}")

    async def run(self, raw: bytes, limit: int = 100_000) -> None:
        """Run a program to its end without an error."""
        await self.start_program(raw)
        await self.wait(limit)
        error = await self.read("ERROR")
        assert not error, f"ERROR is {error}. {await self.snapshot()}"
        ctrl = await self.read("CTRL")
        assert ctrl == 0b1110, f"CTRL is {ctrl:#x} after a program; done, idle and ready expected"
        assert not self.memory.outstanding, "the program ended before its memory accesses"

    async def snapshot(self) -> "DeviceSnapshot":
        """What every unit is doing, for messages."""
        from lutvar.host.device_status import DeviceSnapshot

        names = ["CTRL", "STATE", "PORTS", "ERROR", "ERROR_INFO"]
        names += ["ERROR_ADDRESS_LO", "ERROR_ADDRESS_HI"]
        names += [name for name in BY_NAME if name.startswith("INSTRUCTIONS_")]
        words = {name: await self.read(name) for name in names}
        return DeviceSnapshot.read(words.__getitem__)

    async def expect_error(self, code: DeviceError) -> int:
        """Wait for an error; check its code and that the accelerator has halted.

        Returns:
            ERROR_INFO.
        """
        await self.wait(20_000)
        found = DeviceError(await self.read("ERROR"))
        assert found is code, f"ERROR is {found.name}, {code.name} was provoked"
        assert await self.field("ISR", "error"), "ISR does not tell the error"
        assert await self.field("STATE", "halted")
        assert not await self.field("CTRL", "ready"), "a program could be started after an error"
        info = await self.read("ERROR_INFO")
        record("errors", f"{int(found)} {info}\n".encode())
        return info

    # Rules that always hold

    async def watch_reset(self) -> None:
        """No VALID is high while ap_rst_n is low, nor on a memory port shortly after."""
        pins = [
            (port["name"], getattr(self.dut, port["name"]))
            for port in self.ports
            if port["direction"] == "output" and port["name"].endswith("valid")
        ]
        masters = [(name, pin) for name, pin in pins if name.startswith("m_axi_")]
        edge, reset = RisingEdge(self.dut.ap_clk), self.dut.ap_rst_n
        await edge  # before, nothing has a value
        while True:
            while not reset.value:
                await edge
                if not reset.value:
                    for name, pin in pins:
                        assert pin.value == 0, f"{name} is {pin.value} in reset"
            for _ in range(SILENT):
                for name, pin in masters:
                    assert pin.value == 0, f"{name} is {pin.value} just after a reset"
                await edge
            await FallingEdge(reset)

    async def watch_unknown(self) -> None:
        """No output is X or Z after reset."""
        pins = [
            (port["name"], getattr(self.dut, port["name"]))
            for port in self.ports if port["direction"] == "output"
        ]  # fmt: skip
        edge = RisingEdge(self.dut.ap_clk)
        while True:
            await edge
            for name, pin in pins:
                assert pin.value.is_resolvable, f"{name} is {pin.value}"
