# SPDX-License-Identifier: Apache-2.0
"""The conductor: vectors of the ports in the order of passes and rounds."""

from __future__ import annotations

import random
from collections import deque
from itertools import pairwise
from typing import Any

import pytest
from amaranth.hdl import Value
from amaranth.sim import Simulator

from lutvar.contract.accelerator import STRIPE
from lutvar.contract.sections import SECTIONS, rounds
from lutvar.hw.matrix.conductor import Conductor, walk_layout
from support.hw.matrix import small

BUILDS = [(1, 1), (2, 1), (2, 2), (4, 1), (4, 2), (4, 4)]  # ports, sections at most


def _works(sections: int, rng: random.Random) -> list[dict[Any, int]]:
    """Every number of sections, two full rounds of each, and fillings of the last round; dual and
    going on or not."""
    counts = [s for s in SECTIONS if s <= sections]
    shapes = [(s, n) for s in counts for n in (1, s, s + 1, 2 * s - 1)]
    rng.shuffle(shapes)
    shapes = [*((s, 2 * s) for s in counts), *shapes[:6]]
    rng.shuffle(shapes)
    return [
        {
            "groups": rng.randint(1, 2), "stripes": n, "twice": rng.randint(0, 1),
            "acc_bank": rng.randint(0, 1), "exponent": rng.randint(-32, 31),
            "more": rng.randint(0, 1), "sections": SECTIONS.index(s),
        }
        for s, n in shapes
    ]  # fmt: skip


def _expected(
    works: list[dict[Any, int]], ports: int
) -> tuple[list[deque[int]], list[tuple[Any, ...]]]:
    """Vectors of each port as numbers, and the steps that they make."""
    queues: list[deque[int]] = [deque() for _ in range(ports)]
    steps: list[tuple[Any, ...]] = []
    number = 0
    for work in works:
        sections, stripes = SECTIONS[work["sections"]], work["stripes"]
        passes = work["groups"] * (1 + work["twice"])
        for p in range(passes):
            base = number + 1
            number += stripes * STRIPE
            for b in range(stripes):
                queues[b % ports].extend(range(base + b * STRIPE, base + (b + 1) * STRIPE))
            turns = rounds(stripes * STRIPE, sections)
            for column in range(turns * STRIPE):
                turn, within = divmod(column, STRIPE)
                vectors = [  # of the sections that have a stripe: the first ones
                    base + b * STRIPE + within
                    for b in range(turn * sections, min(stripes, (turn + 1) * sections))
                ]
                end = column == turns * STRIPE - 1
                steps.append((
                    vectors, p == 0 and not work["more"], end, end and p == passes - 1,
                    work["acc_bank"], column, work["exponent"], work["sections"],
                ))  # fmt: skip
    return queues, steps


@pytest.mark.slow
@pytest.mark.parametrize(("ports", "sections"), BUILDS)
@pytest.mark.parametrize("stall", [0.0, 0.4])
def test_steps_are_in_order_and_none_is_lost(ports: int, sections: int, stall: float) -> None:
    config = small(
        weight_ports=ports, max_sections=sections, rows=16 * sections, acc_depth=1024
    )  # fmt: skip
    rng = random.Random(ports + 10 * sections)
    works = _works(sections, rng)
    queues, expected = _expected(works, ports)
    slow = [stall * rng.random() for _ in range(ports)]
    dut = Conductor(config)
    cycles: list[int] = []

    async def testbench(ctx: Any) -> None:
        left, offered = list(works), False
        shown = [False] * ports
        cycle = 0
        while len(cycles) < len(expected):
            assert cycle < 20 * len(expected)
            offered = offered or (bool(left) and rng.random() >= stall)
            ctx.set(dut.work.valid, offered)
            if offered:
                ctx.set(dut.work.payload, walk_layout(config).const(left[0]))
            for port, (stream, queue) in enumerate(zip(dut.vectors, queues, strict=True)):
                ctx.set(stream.valid, shown[port])
                value = queue[0] if shown[port] else rng.getrandbits(20)
                ctx.set(Value.cast(stream.payload), value | value << STRIPE * 4)
            ready = rng.random() >= stall
            ctx.set(dut.steps.ready, ready)
            began = offered and ctx.get(dut.work.ready)
            for port, (stream, queue) in enumerate(zip(dut.vectors, queues, strict=True)):
                if shown[port] and ctx.get(stream.ready):
                    queue.popleft()
                    shown[port] = False
                shown[port] = shown[port] or (bool(queue) and rng.random() >= slow[port])
            ctx.set(dut.soon, sum(there << port for port, there in enumerate(shown)))
            if ready and ctx.get(dut.steps.valid):
                s = ctx.get(dut.steps.payload)
                want = expected[len(cycles)]
                vectors = [s.vectors[k] for k in range(len(want[0]))]
                assert [v.codes for v in vectors] == want[0]
                assert [v.ws for v in vectors] == [n & 0xFFFF for n in want[0]]
                got = (s.first, s.end, s.last, s.bank, s.column, s.exponent)
                assert got == want[1:7]
                assert sections == 1 or s.sections == want[7]
                cycles.append(cycle)
            await ctx.tick()
            cycle += 1
            if began:
                left.pop(0)
                offered = False

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(testbench)
    simulator.run()
    assert not any(queues)
    if not stall:
        assert all(b == a + 1 for a, b in pairwise(cycles))
