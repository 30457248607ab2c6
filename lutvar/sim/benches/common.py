# SPDX-License-Identifier: Apache-2.0
"""What every bench needs: clock, reset, bus models, rules that must hold at all times."""

import json
import os
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import cocotb
from cocotb.clock import Clock
from cocotb.triggers import ClockCycles, RisingEdge
from cocotbext.axi import (
    AxiLiteBus,
    AxiLiteMaster,
    AxiStreamBus,
    AxiStreamFrame,
    AxiStreamSink,
    AxiStreamSource,
)

from lutvar.contract.config import HardwareConfig, QuantConfig
from lutvar.contract.layout import StreamLayout
from lutvar.contract.registers import BY_NAME, ErrorCode

SETTINGS = "LUTVAR_BENCH"  #: environment variable: path of the runner's settings file
OKAY, SLVERR = 0, 2
INPUTS = {
    "s_axi_control": ("awaddr", "awvalid", "wdata", "wstrb", "wvalid", "bready", "araddr",
                      "arvalid", "rready"),
    "s_axis_act": ("tdata", "tvalid", "tlast"),
    "s_axis_wgt": ("tdata", "tvalid", "tlast"),
    "m_axis_out": ("tready",),
}  # fmt: skip
OUTPUTS = {
    "s_axi_control": ("awready", "wready", "bresp", "bvalid", "arready", "rdata", "rresp",
                      "rvalid"),
    "s_axis_act": ("tready",),
    "s_axis_wgt": ("tready",),
    "m_axis_out": ("tdata", "tvalid", "tlast", "tkeep"),
}  # fmt: skip


def settings() -> dict[str, Any]:
    return json.loads(Path(os.environ[SETTINGS]).read_text())


def pauses(probability: float, seed: int) -> Iterable[bool]:
    """Endless random pauses for a bus model."""
    rng = random.Random(seed)
    while True:
        yield rng.random() < probability


class Bench:
    """A core with a clock, an AXI4-Lite master, two stream sources and a sink.

    Attributes:
        hardware, quant, layout: the build under test.
        bus, act, wgt, out: bus models of cocotbext-axi.
    """

    def __init__(self, dut: Any) -> None:
        data = settings()
        self.dut = dut
        self.hardware = HardwareConfig.model_validate(data["hardware"])
        self.quant = QuantConfig.model_validate(data["quant"])
        self.layout = StreamLayout.of(self.hardware, self.quant)
        self.size = self.hardware.stream_bytes
        self._has_x = data["four_state"]
        self._may_withdraw = True  # a stream may drop its offer: the core is being reset

    @classmethod
    async def start(cls, dut: Any, *, models: bool = True) -> "Bench":
        """Reset the core and attach the bus models (a bench that drives pins itself wants none)."""
        bench = cls(dut)
        for prefix, names in INPUTS.items():
            for name in names:
                bench.pin(prefix, name).value = 0
        dut.ap_rst_n.value = 0
        Clock(dut.ap_clk, 4, unit="ns").start()
        if models:
            ends = (dut.ap_clk, dut.ap_rst_n, False)
            bench.bus = AxiLiteMaster(AxiLiteBus.from_prefix(dut, "s_axi_control"), *ends)
            bench.act = AxiStreamSource(AxiStreamBus.from_prefix(dut, "s_axis_act"), *ends)
            bench.wgt = AxiStreamSource(AxiStreamBus.from_prefix(dut, "s_axis_wgt"), *ends)
            bench.out = AxiStreamSink(AxiStreamBus.from_prefix(dut, "m_axis_out"), *ends)
        await bench.reset()
        cocotb.start_soon(bench._watch_output())
        if bench._has_x:
            cocotb.start_soon(bench._watch_unknown())
        return bench

    def pin(self, prefix: str, name: str) -> Any:
        return getattr(self.dut, f"{prefix}_{name}")

    async def cycles(self, count: int) -> None:
        await ClockCycles(self.dut.ap_clk, count)

    async def reset(self, count: int = 4) -> None:
        """Pulse ap_rst_n; the models' own reset drops their transfers."""
        self._may_withdraw = True
        self.dut.ap_rst_n.value = 0
        await self.cycles(count)
        self.dut.ap_rst_n.value = 1
        await self.cycles(2)
        self._may_withdraw = False

    # Registers

    async def read(self, name: str) -> int:
        answer = await self.bus.read(BY_NAME[name].offset, 4)
        assert answer.resp == OKAY, f"reading {name} was answered with {answer.resp}"
        return int.from_bytes(answer.data, "little")

    async def write(self, name: str, value: int) -> None:
        data = (value & 0xFFFFFFFF).to_bytes(4, "little")
        answer = await self.bus.write(BY_NAME[name].offset, data)
        assert answer.resp == OKAY, f"writing {name} was answered with {answer.resp}"

    async def field(self, register: str, field: str) -> int:
        return BY_NAME[register].field_value(await self.read(register), field)

    async def wait_for(self, register: str, field: str, limit: int = 200) -> None:
        """Poll a bit; `limit` counts polls."""
        for _ in range(limit):
            if await self.field(register, field):
                return
        state = await self.read("STATE")
        error = ErrorCode(await self.read("ERROR"))
        raise AssertionError(
            f"{register}.{field} stayed 0 for {limit} polls; STATE {state:#x}, ERROR {error.name}"
        )

    async def soft_reset(self) -> None:
        """SOFT_RESET, with the stream models restarted as DMA engines would be."""
        self._may_withdraw = True
        models = (self.act, self.wgt, self.out)
        for model in models:
            model.clear()
            model.assert_reset(True)
        await self.write("SOFT_RESET", 1)
        await self.cycles(2)
        for model in models:
            model.clear()
            model.assert_reset(False)
        await self.read("STATE")  # answered when the reset is over
        self._may_withdraw = False

    # Jobs

    async def arguments(self, values: dict[str, int]) -> None:
        for name, value in values.items():
            await self.write(name, value)

    async def start_job(self, values: dict[str, int]) -> None:
        """Queue a job: wait until one can be queued, write arguments, start."""
        await self.wait_for("CTRL", "ready")
        await self.arguments(values)
        await self.write("CTRL", 1)

    async def feed(self, act: bytes, wgt: bytes = b"") -> None:
        """Queue a packet on each input (nothing for an empty one)."""
        if act:
            await self.act.send(AxiStreamFrame(act))
        if wgt:
            await self.wgt.send(AxiStreamFrame(wgt))

    async def collect(self, limit: int = 20_000) -> bytes:
        """The next output packet, up to its TLAST."""
        task = cocotb.start_soon(self.out.recv())
        for _ in range(limit // 8):
            if task.done():
                return bytes(task.result().tdata)
            await self.cycles(8)
        task.cancel()
        error = ErrorCode(await self.read("ERROR"))
        state = await self.read("STATE")
        raise AssertionError(f"no packet in {limit} cycles; ERROR {error.name}, STATE {state:#x}")

    async def expect_error(self, code: ErrorCode, info: int | None, limit: int = 200) -> None:
        """Wait for an error; check its code, its context and that the core has halted."""
        await self.wait_for("ISR", "error", limit)
        found = ErrorCode(await self.read("ERROR"))
        assert found is code, f"ERROR is {found.name}, {code.name} was provoked"
        if info is not None:
            context = await self.read("ERROR_INFO")
            assert context == info, f"{code.name}: ERROR_INFO is {context:#x}, not {info:#x}"
        for prefix in ("s_axis_act", "s_axis_wgt"):
            assert not self.pin(prefix, "tready").value, f"{prefix} is ready after {code.name}"
        assert not await self.field("CTRL", "ready"), "a job could be queued after an error"

    # Rules that always hold

    async def _watch_output(self) -> None:
        """A beat that was offered stays the same until it is taken; TKEEP is all ones."""
        names = ("tvalid", "tready", "tlast", "tdata", "tkeep")
        valid, ready, last, data, keep = (self.pin("m_axis_out", n) for n in names)
        offered = None
        edge = RisingEdge(self.dut.ap_clk)
        while True:
            await edge
            if self._may_withdraw:
                offered = None
                continue
            now = (str(data.value), str(last.value)) if valid.value else None
            if offered is not None:
                assert now == offered, "m_axis_out changed its offer before it was taken"
            offered = None if ready.value else now
            if now is not None:
                assert str(keep.value) == "1" * self.size, "TKEEP is not all ones"

    async def _watch_unknown(self) -> None:
        """No output is X or Z after reset."""
        pins = {f"{prefix}_{name}": self.pin(prefix, name)
                for prefix, names in OUTPUTS.items() for name in names}  # fmt: skip
        pins["interrupt"] = self.dut.interrupt
        edge = RisingEdge(self.dut.ap_clk)
        while True:
            await edge
            for name, pin in pins.items():
                assert pin.value.is_resolvable, f"{name} is {pin.value}"
