# SPDX-License-Identifier: Apache-2.0
"""Unit FETCH: order of the beats, full rate, completion."""

import random
from typing import Any

import pytest
from amaranth.hdl import Cat
from amaranth.sim import Simulator

from lutvar.contract.accelerator import AcceleratorConfig, load_accelerator
from lutvar.contract.memory import port_beats
from lutvar.hw.fetch.unit import FetchUnit
from support.hw.axi_memory import BEAT_BYTES, AxiMemory, serve
from support.hw.masters import first_report, open_windows

NAMES = ("address", "beats", "full", "rest", "panels", "repeat")
Command = tuple[int, int, int, int, int, int]  #: operands `NAMES`


def _config(**changes: Any) -> AcceleratorConfig:
    return load_accelerator("small-fp4").model_copy(update={"weight_fifo": 64, **changes})


def _expected(
    memory: AxiMemory, commands: list[Command], ports: int
) -> tuple[list[list[int]], list[list[int]]]:
    """Beats of each port, with the mark of a reading's last one in bit 512; how many each has
    brought when an instruction is done."""
    found: list[list[int]] = [[] for _ in range(ports)]
    ends = []
    for address, beats, full, rest, panels, repeat in commands:
        for _ in range(panels):
            for mine, count in zip(found, port_beats(beats, full, rest, ports), strict=True):
                reading = [memory.beats.get(address + i * BEAT_BYTES, 0) for i in range(count)]
                address += count * BEAT_BYTES
                if reading:
                    reading[-1] |= 1 << 512
                mine += repeat * reading
        ends.append([len(mine) for mine in found])
    return found, ends


def _run(
    config: AcceleratorConfig,
    memory: AxiMemory,
    commands: list[Command],
    slow: tuple[float, ...] = (0.0,),
    memories: list[AxiMemory] | None = None,
) -> list[list[int]]:
    """Cycle of each beat, by port; checks values and completions.

    Args:
        slow: probability of a cycle in which a port's sink is not ready, of the ports in turn.
        memories: what answers each port, with the same content; default: `memory` for all.
    """
    ports = config.weight_ports
    expected, ends = _expected(memory, commands, ports)
    dut = FetchUnit(config)
    rngs = [random.Random(len(commands) + port) for port in range(ports)]
    cycles: list[list[int]] = [[] for _ in range(ports)]
    done_at: list[list[int]] = []

    async def source(ctx: Any) -> None:
        open_windows(ctx, dut)
        for command in commands:
            payload = dut.command.payload
            for name, value in zip(NAMES, command, strict=True):
                ctx.set(getattr(payload, name), value)
            ctx.set(dut.command.valid, 1)
            await ctx.tick().until(dut.command.ready)
            ctx.set(dut.command.valid, 0)

    async def sink(ctx: Any) -> None:
        for cycle in range(12_000):
            ready = [r.random() >= slow[p % len(slow)] for p, r in enumerate(rngs)]
            for stream, value in zip(dut.weights, ready, strict=True):
                ctx.set(stream.ready, value)
            signals = [s for stream in dut.weights for s in (stream.valid, stream.payload)]
            _, _, done, busy, *beats = await ctx.tick().sample(dut.done, dut.busy, *signals)
            if done:
                done_at.append([len(mine) for mine in cycles])
                assert busy or len(done_at) == len(commands)
            for port, mine in enumerate(cycles):
                if beats[2 * port] and ready[port]:
                    assert beats[2 * port + 1].as_bits() == expected[port][len(mine)]
                    mine.append(cycle)
            if len(done_at) == len(commands):
                break
        await ctx.tick().repeat(4)
        assert not ctx.get(dut.busy) and ctx.get(dut.idle)
        assert not any(ctx.get(stream.valid) for stream in dut.weights)

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    for port in range(ports):
        serve(simulator, memories[port] if memories else memory, [dut.memory[port]], [])
    simulator.add_testbench(source)
    simulator.add_testbench(sink)
    simulator.run()
    assert [len(mine) for mine in cycles] == [len(mine) for mine in expected]
    # As soon as the slowest port has brought its beats: a cycle later, or two if there are several.
    for all_ends, counts in zip(ends, done_at, strict=True):
        assert all(end <= at for end, at in zip(all_ends, counts, strict=True))
    for number, (all_ends, counts) in enumerate(zip(ends, done_at, strict=True)):
        late = [at - end for end, at in zip(all_ends, counts, strict=True)]
        assert min(late) <= 2 or number, (number, late)
    return cycles


def _memory(**how: Any) -> AxiMemory:
    memory = AxiMemory(**how)
    rng = random.Random(2)
    for base in (0, 1 << 35):
        for i in range(200):
            memory.beats[base + i * BEAT_BYTES] = rng.getrandbits(512)
    return memory


#: Shares of all kinds: equal ones, fewer beats on the last ports, none.
COMMANDS: dict[int, list[Command]] = {
    1: [(0, 33, 1, 0, 3, 1), (64, 35, 1, 0, 2, 2), (1 << 35, 1, 1, 0, 7, 2), (128, 1, 1, 0, 1, 1),
        (0, 5, 1, 0, 1, 2)],
    2: [(0, 33, 2, 0, 3, 1), (64, 35, 1, 12, 2, 2), (1 << 35, 1, 1, 0, 7, 2), (128, 2, 1, 1, 1, 1),
        (0, 5, 2, 0, 1, 2)],
    4: [(0, 17, 4, 0, 2, 1), (64, 18, 3, 9, 1, 2), (1 << 35, 3, 1, 0, 5, 2), (128, 2, 1, 1, 1, 1),
        (64, 16, 2, 0, 2, 1), (0, 5, 2, 3, 1, 2)],
}  # fmt: skip


@pytest.mark.parametrize("ports", COMMANDS)
@pytest.mark.parametrize(("stall", "slow"), [(0.0, 0.0), (0.3, 0.0), (0.1, 0.6)])
def test_panels_are_read_in_order(ports: int, stall: float, slow: float) -> None:
    memory = _memory(latency=10, jitter=20 if stall else 0, stall=stall)
    _run(_config(weight_ports=ports), memory, COMMANDS[ports] * 2, (slow,))


@pytest.mark.parametrize(("ports", "slower"), [(2, 0), (2, 1), (4, 2)])
def test_each_port_stalls_on_its_own(ports: int, slower: int) -> None:
    """A slow memory behind one port, a slow sink behind the other ones."""
    memories = [
        _memory(latency=40, jitter=60, stall=0.5) if port == slower else _memory(latency=4)
        for port in range(ports)
    ]
    for slow in ((0.0,), (0.7, 0.0), (0.0, 0.7)):
        _run(_config(weight_ports=ports), memories[0], COMMANDS[ports], slow, memories)


@pytest.mark.parametrize("ports", COMMANDS)
def test_one_beat_in_each_cycle_across_instructions(ports: int) -> None:
    commands = [(0, 33, ports, 0, 3, 1), (64, 35, ports, 0, 2, 2), (0, 49, ports, 0, 2, 1)]
    for cycles in _run(_config(weight_ports=ports), _memory(latency=30), commands):
        assert cycles[-1] - cycles[0] == len(cycles) - 1


@pytest.mark.parametrize("ports", COMMANDS)
def test_without_pipelining_one_burst_at_a_time(ports: int) -> None:
    config = _config(weight_ports=ports, pipelined=False)
    for cycles in _run(config, _memory(latency=10), [(0, 16, ports, 0, 3, 1)]):
        assert cycles[-1] - cycles[0] > len(cycles) + 2 * 10


@pytest.mark.parametrize(
    ("bad", "expected"),
    [
        ((35 * 64, 70 * 64), 33 * 64),  # the second port's, long before one of the first port
        ((2 * 64, 104 * 64), 0),  # the other way round
        ((2 * 64, 34 * 64), 0),  # a cycle earlier: the first port's
        ((20 * 64,), 16 * 64),
    ],
)
def test_the_first_error_of_two_ports_is_kept(bad: tuple[int, ...], expected: int) -> None:
    memory = _memory(latency=6)
    memory.bad = frozenset(bad)
    dut = FetchUnit(_config(weight_ports=2))

    async def testbench(ctx: Any) -> None:
        open_windows(ctx, dut)
        for name, value in zip(NAMES, (0, 33, 2, 0, 3, 1), strict=True):
            ctx.set(getattr(dut.command.payload, name), value)
        for stream in dut.weights:
            ctx.set(stream.ready, 1)
        ctx.set(dut.command.valid, 1)
        await ctx.tick().until(dut.command.ready)
        ctx.set(dut.command.valid, 0)
        both = Cat(dut.reports[port].response for port in range(2))
        await ctx.tick().until(both != 0)
        number = 0 if ctx.get(both) & 1 else 1
        found = [first_report(ctx, [dut.reports[number]])]
        await ctx.tick().repeat(300)
        found.append(first_report(ctx, [dut.reports[number]]))
        assert found == [("response", expected)] * 2

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    serve(simulator, memory, dut.memory, [])
    simulator.add_testbench(testbench)
    simulator.run()
