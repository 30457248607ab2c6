# SPDX-License-Identifier: Apache-2.0
"""Drive and collect Amaranth streams with random idle cycles and back-pressure.

Payloads travel as plain integers, whatever their layout, because that is fast in the Amaranth
simulator. The collector checks the stream rule that an offered payload stays until it is taken.
"""

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from amaranth.hdl import Elaboratable, Value
from amaranth.sim import Simulator


@dataclass
class Source:
    """What one input stream receives.

    Attributes:
        stream: an `In` stream of the device under test.
        items: payloads, as integers, in order.
        idle: probability of a cycle without a payload.
    """

    stream: Any
    items: Sequence[int]
    idle: float = 0.0


@dataclass
class Sink:
    """What one output stream delivers.

    Attributes:
        stream: an `Out` stream of the device under test.
        count: payloads to wait for; the test fails when they do not come.
        stall: probability of a cycle in which the test is not ready.
        items: payloads received, as integers.
        cycles: clock cycle of each transfer, counted from 0 at the end of reset.
    """

    stream: Any
    count: int
    stall: float = 0.0
    items: list[int] = field(default_factory=list)
    cycles: list[int] = field(default_factory=list)


def _driver(source: Source, rng: random.Random, limit: int) -> Callable[[Any], Any]:
    payload = Value.cast(source.stream.payload)

    async def process(ctx: Any) -> None:
        for item in source.items:
            while source.idle and rng.random() < source.idle:
                # A payload that changes while nothing is offered must not matter.
                ctx.set(payload, rng.getrandbits(len(payload)))
                await ctx.tick()
            ctx.set(payload, item)
            ctx.set(source.stream.valid, 1)
            for _ in range(limit):
                _, _, ready = await ctx.tick().sample(source.stream.ready)
                if ready:
                    break
            else:
                raise AssertionError(f"a payload was not taken within {limit} cycles")
            ctx.set(source.stream.valid, 0)

    return process


def _collector(sink: Sink, rng: random.Random, limit: int) -> Callable[[Any], Any]:
    payload = Value.cast(sink.stream.payload)

    async def process(ctx: Any) -> None:
        offered: int | None = None
        for cycle in range(limit):
            ready = not (sink.stall and rng.random() < sink.stall)
            ctx.set(sink.stream.ready, ready)
            _, _, valid, value = await ctx.tick().sample(sink.stream.valid, payload)
            if offered is not None:
                assert valid, f"cycle {cycle}: valid fell before the payload was taken"
                assert value == offered, f"cycle {cycle}: payload changed before it was taken"
            offered = value if valid and not ready else None
            if valid and ready:
                sink.items.append(value)
                sink.cycles.append(cycle)
                if len(sink.items) == sink.count:
                    break
        else:
            raise AssertionError(
                f"{len(sink.items)} of {sink.count} payloads came within {limit} cycles"
            )
        ctx.set(sink.stream.ready, 0)

    return process


def run_streams(
    dut: Elaboratable,
    sources: Iterable[Source],
    sinks: Iterable[Sink],
    *,
    seed: int = 0,
    limit: int = 20_000,
    observers: Iterable[Callable[[Any], Any]] = (),
) -> None:
    """Run `dut` until every source is empty and every sink has its count.

    Args:
        seed: fixes idle cycles and back-pressure.
        limit: clock cycles after which a missing payload is an error.
        observers: further background test benches (async functions of the simulator context).
    """
    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    for number, source in enumerate(sources):
        rng = random.Random(f"{seed} source {number}")
        simulator.add_testbench(_driver(source, rng, limit))
    for number, sink in enumerate(sinks):
        rng = random.Random(f"{seed} sink {number}")
        simulator.add_testbench(_collector(sink, rng, limit))
    for observer in observers:
        simulator.add_testbench(observer, background=True)
    simulator.run()


def pack(fields: Sequence[tuple[int, int]]) -> int:
    """Join (value, width) pairs into one integer, first field in the least significant bits."""
    result = position = 0
    for value, width in fields:
        if not 0 <= value < 1 << width:
            raise ValueError(f"value {value} does not fit {width} bits")
        result |= value << position
        position += width
    return result


def unpack(value: int, widths: Sequence[int]) -> list[int]:
    """Split an integer into fields of the given widths, least significant first."""
    fields = []
    for width in widths:
        fields.append(value & ((1 << width) - 1))
        value >>= width
    if value:
        raise ValueError(f"bits are left over beyond {sum(widths)}: {value:#x}")
    return fields
