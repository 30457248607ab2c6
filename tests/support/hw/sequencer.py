# SPDX-License-Identifier: Apache-2.0
"""The sequencer with units that take any time, and what they saw."""

import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from amaranth.sim import Simulator

from lutvar.contract.accelerator import AcceleratorConfig, load_accelerator
from lutvar.contract.isa import PAYLOAD_FIELDS, UNITS, Opcode
from lutvar.hw.sequencer.sequencer import Sequencer
from support.hw.axi_memory import AxiMemory, serve
from support.hw.masters import open_windows
from support.hw.program_cases import BASES

CONFIG = load_accelerator("small-fp4").model_copy(
    update={"queue": 4, "act_banks": 3, "bank_groups": 10}
)
#: Four weight ports; sections of 7, 3 or 1 row groups.
FOUR = AcceleratorConfig.model_validate(
    {**CONFIG.model_dump(), "rows": 112, "weight_ports": 4, "max_sections": 4}
)
PROGRAM = 0x7_0000_0FC0


@dataclass
class Run:
    """What the units saw."""

    started: list[tuple[int, int, int]] = field(default_factory=list)  # cycle, unit, number
    ended: list[tuple[int, int, int]] = field(default_factory=list)
    payloads: dict[int, list[dict[str, int]]] = field(default_factory=dict)
    finished: int | None = None
    bad: tuple[str, int] | None = None


def run(
    raw: bytes,
    *,
    config: AcceleratorConfig = CONFIG,
    serial: bool = False,
    duration: int = 30,
    in_unit: int = 2,
    memory: AxiMemory | None = None,
    limit: int = 20_000,
    again: bool = False,
    dead: int | None = None,
) -> Run:
    """Run a program with units that take any time up to `duration`; `dead` never ends."""
    memory = memory or AxiMemory(latency=8, jitter=6, stall=0.1)
    memory.write(PROGRAM, raw)
    dut = Sequencer(config)
    result = Run(payloads={int(u): [] for u in UNITS})
    counts = [0] * len(UNITS)

    def unit(number: int, name: str, op: Opcode) -> Callable[[Any], Any]:
        rng = random.Random(number)

        async def process(ctx: Any) -> None:
            command = getattr(dut, f"command_{name}")
            due: deque[int] = deque()
            offered = None
            cycle = 0
            while True:
                ready = len(due) < in_unit and rng.random() < 0.7
                ctx.set(command.ready, ready)
                done = bool(due) and due[0] <= cycle and number != dead
                ctx.set(dut.dones[number], done)
                if done:
                    due.popleft()
                    result.ended.append((cycle, number, counts[number]))
                    counts[number] += 1
                _, _, valid, payload = await ctx.tick().sample(command.valid, command.payload)
                cycle += 1
                assert offered is None or (valid and payload.as_bits() == offered)
                offered = payload.as_bits() if valid and not ready else None
                if valid and ready:
                    seen = {f.name: payload[f.name] for f in PAYLOAD_FIELDS[op]}
                    result.started.append((cycle, number, len(result.payloads[number])))
                    result.payloads[number].append(seen)
                    due.append(cycle + rng.randint(1, duration))

        return process

    async def testbench(ctx: Any) -> None:
        open_windows(ctx, dut)
        ctx.set(dut.program, PROGRAM)
        ctx.set(dut.bases, sum(base << 64 * i for i, base in enumerate(BASES)))
        ctx.set(dut.serial, serial)
        await ctx.tick().repeat(3)
        for _ in range(2 if again else 1):
            ctx.set(dut.start, 1)
            await ctx.tick()
            ctx.set(dut.start, 0)
            for cycle in range(limit):
                _, _, finished, header, instruction, info, running = await ctx.tick().sample(
                    dut.finished, dut.bad_header, dut.bad_instruction, dut.bad_info, dut.running
                )
                assert running
                if header or instruction:
                    result.bad = ("header" if header else "instruction", info)
                    await ctx.tick().repeat(100)
                    assert ctx.get(dut.running)
                    return
                if finished:
                    result.finished = cycle
                    break
            else:
                return
            await ctx.tick().repeat(3)
            assert not ctx.get(dut.running) and not ctx.get(dut.incomplete)
            total = sum(ctx.get(dut.completed[int(u)]) for u in UNITS)
            assert total == int.from_bytes(raw[16:20], "little") - 1

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    serve(simulator, memory, [dut.memory], [])
    for u in UNITS:
        process = unit(int(u), u.name.lower(), Opcode[u.name])
        simulator.add_testbench(process, background=True)
    simulator.add_testbench(testbench)
    simulator.run()
    return result
