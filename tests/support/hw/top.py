# SPDX-License-Identifier: Apache-2.0
"""The accelerator's top with stand-in units in front of a memory, and the host that drives it."""

from collections.abc import Callable
from typing import Any

from amaranth.hdl import ClockDomain, Module
from amaranth.lib import wiring
from amaranth.sim import Simulator

from lutvar.contract.accelerator import AcceleratorConfig, load_accelerator
from lutvar.contract.register_map import BY_NAME, WRITE_PORTS, read_ports
from lutvar.hw.accelerator.top import AcceleratorCore
from support.hw.axi_memory import AxiMemory, serve
from support.hw.program_cases import BASES
from support.hw.stand_in_units import stand_ins

CONFIG = load_accelerator("small-fp4").model_copy(update={"weight_fifo": 64, "queue": 4})
FOUR_PORTS = CONFIG.model_copy(update={"weight_ports": 4})
REGION_SIZE = 1 << 39  #: offsets have 38 bits
PROGRAM = BASES[3] + REGION_SIZE - (1 << 20) - 0xC0  #: within the window of the last region
SETTLE = 40  #: cycles


class _Harness(wiring.Component):
    """Clock domains around the core."""

    def __init__(self, core: AcceleratorCore) -> None:
        self.core = core
        super().__init__({})

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.submodules.core = self.core
        sync: Any = ClockDomain("sync")
        m.domains += [ClockDomain("bus", reset_less=True), sync]
        m.d.comb += sync.rst.eq(self.core.core_reset)
        return m


class Host:
    """Register accesses over AXI4-Lite."""

    def __init__(self, ctx: Any, core: AcceleratorCore) -> None:
        self.ctx, self.core, self.axi = ctx, core, core.s_axi_control

    async def tick(self, cycles: int = 1) -> None:
        await self.ctx.tick("bus").repeat(cycles)

    async def write(self, name: str, value: int) -> None:
        axi, set_ = self.axi, self.ctx.set
        for key, v in (("awaddr", BY_NAME[name].offset), ("wdata", value), ("wstrb", 15)):
            set_(getattr(axi, key), v)
        set_(axi.awvalid, 1)
        set_(axi.wvalid, 1)
        set_(axi.bready, 1)
        waiting = {"aw", "w", "b"}
        for _ in range(200):
            _, _, aw, w, b, resp = await self.ctx.tick("bus").sample(
                axi.awready, axi.wready, axi.bvalid, axi.bresp
            )
            if aw and "aw" in waiting:
                set_(axi.awvalid, 0)
                waiting.discard("aw")
            if w and "w" in waiting:
                set_(axi.wvalid, 0)
                waiting.discard("w")
            if b:
                assert resp == 0
                return
        raise AssertionError(f"write of {name} is not answered")

    async def read(self, name: str) -> int:
        axi = self.axi
        self.ctx.set(axi.araddr, BY_NAME[name].offset)
        self.ctx.set(axi.arvalid, 1)
        self.ctx.set(axi.rready, 1)
        for _ in range(200):
            _, _, ar, valid, value, resp = await self.ctx.tick("bus").sample(
                axi.arready, axi.rvalid, axi.rdata, axi.rresp
            )
            if ar:
                self.ctx.set(axi.arvalid, 0)
            if valid:
                assert resp == 0
                return int(value)
        raise AssertionError(f"read of {name} is not answered")

    async def field(self, register: str, name: str) -> int:
        return BY_NAME[register].field_value(await self.read(register), name)

    async def load(self) -> None:
        limits = [base + REGION_SIZE for base in BASES]
        for name, value in (
            ("PROGRAM", PROGRAM),
            *((f"BASE{i}", base) for i, base in enumerate(BASES)),
            *((f"LIMIT{i}", limit) for i, limit in enumerate(limits)),
        ):
            await self.write(f"{name}_LO", value & 0xFFFFFFFF)
            await self.write(f"{name}_HI", value >> 32)

    async def ready(self) -> None:
        """Until a program may start."""
        for _ in range(40):
            if await self.field("CTRL", "ready"):
                return
        raise AssertionError("CTRL.ready does not rise")

    async def wait(self, cycles: int = 8000) -> None:
        """Until the program has finished or an error is kept."""
        for _ in range(cycles // 60):
            await self.tick(40)
            if await self.field("CTRL", "done") or await self.read("ERROR"):
                return
        raise AssertionError("the program does not end")

    async def run(self) -> None:
        await self.write("CTRL", 1)
        await self.wait()


def simulate(
    program: bytes,
    scenario: Callable[[Host], Any],
    *,
    memory: AxiMemory | None = None,
    delay: int = 20,
    config: AcceleratorConfig = CONFIG,
) -> AxiMemory:
    memory = memory or AxiMemory(latency=6, jitter=5, stall=0.1)
    memory.write(PROGRAM, program)
    core = AcceleratorCore(config, stand_ins(config, delay), settle=SETTLE)
    simulator = Simulator(_Harness(core))
    simulator.add_clock(1e-6, domain="sync")
    simulator.add_clock(1e-6, domain="bus")
    serve(
        simulator, memory,
        [getattr(core, f"m_axi_{p}") for p in read_ports(config.weight_ports)],
        [getattr(core, f"m_axi_{p}") for p in WRITE_PORTS],
    )  # fmt: skip

    async def testbench(ctx: Any) -> None:
        host = Host(ctx, core)
        await host.tick(20)
        await host.ready()
        await scenario(host)

    simulator.add_testbench(testbench)
    simulator.run()
    return memory
