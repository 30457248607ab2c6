# SPDX-License-Identifier: Apache-2.0
"""Unit FETCH: order of the beats, full rate, completion."""

import random
from typing import Any

import pytest
from amaranth.sim import Simulator
from axi_memory import BEAT_BYTES, AxiMemory, serve

from lutvar.contract.accelerator import AcceleratorConfig, load_accelerator
from lutvar.hw.sequencer.fetch import FetchUnit


def _config(**changes: Any) -> AcceleratorConfig:
    return load_accelerator("small-fp4").model_copy(update={"weight_fifo": 64, **changes})


def _run(
    config: AcceleratorConfig,
    memory: AxiMemory,
    commands: list[tuple[int, int, int, int]],
    slow: float = 0.0,
) -> list[int]:
    """Cycle of each beat; checks values and completions."""
    expected, ends = [], []
    for address, beats, panels, repeat in commands:
        for panel in range(panels):
            one = [memory.beats.get(address + (panel * beats + i) * BEAT_BYTES, 0)
                   for i in range(beats)]  # fmt: skip
            expected += one * repeat
        ends.append(len(expected))
    dut = FetchUnit(config)
    rng = random.Random(len(commands))
    cycles: list[int] = []
    done_at: list[int] = []

    async def source(ctx: Any) -> None:
        for address, beats, panels, repeat in commands:
            payload = dut.command.payload
            for name, value in zip(
                ("address", "beats", "panels", "repeat"), (address, beats, panels, repeat),
                strict=True,
            ):  # fmt: skip
                ctx.set(getattr(payload, name), value)
            ctx.set(dut.command.valid, 1)
            await ctx.tick().until(dut.command.ready)
            ctx.set(dut.command.valid, 0)

    async def sink(ctx: Any) -> None:
        for cycle in range(8000):
            ready = rng.random() >= slow
            ctx.set(dut.weights.ready, ready)
            _, _, valid, value, done, busy = await ctx.tick().sample(
                dut.weights.valid, dut.weights.payload, dut.done, dut.busy
            )
            if done:
                done_at.append(len(cycles))
                assert busy or len(done_at) == len(commands)
            if valid and ready:
                assert value == expected[len(cycles)]
                cycles.append(cycle)
            if len(done_at) == len(commands):
                break
        await ctx.tick().repeat(4)
        assert not ctx.get(dut.busy) and ctx.get(dut.quiet) and not ctx.get(dut.weights.valid)

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    serve(simulator, memory, [dut.memory], [])
    simulator.add_testbench(source)
    simulator.add_testbench(sink)
    simulator.run()
    assert len(cycles) == len(expected)
    assert all(end <= at <= end + 1 for end, at in zip(ends, done_at, strict=True))
    return cycles


def _memory(**how: Any) -> AxiMemory:
    memory = AxiMemory(**how)
    rng = random.Random(2)
    for base in (0, 1 << 35):
        for i in range(200):
            memory.beats[base + i * BEAT_BYTES] = rng.getrandbits(512)
    return memory


COMMANDS = [(0, 33, 3, 1), (64, 35, 2, 2), (1 << 35, 1, 7, 2), (128, 1, 1, 1), (0, 5, 1, 2)]


@pytest.mark.parametrize(("stall", "slow"), [(0.0, 0.0), (0.3, 0.0), (0.1, 0.6)])
def test_panels_are_read_in_order(stall: float, slow: float) -> None:
    memory = _memory(latency=10, jitter=20 if stall else 0, stall=stall)
    _run(_config(), memory, COMMANDS * 2, slow)


def test_one_beat_in_each_cycle_across_instructions() -> None:
    cycles = _run(_config(), _memory(latency=30), [(0, 33, 3, 1), (64, 35, 2, 2), (0, 49, 2, 1)])
    assert cycles[-1] - cycles[0] == len(cycles) - 1


def test_without_pipelining_one_burst_at_a_time() -> None:
    cycles = _run(_config(pipelined=False), _memory(latency=10), [(0, 16, 3, 1)])
    assert cycles[-1] - cycles[0] > len(cycles) + 2 * 10
