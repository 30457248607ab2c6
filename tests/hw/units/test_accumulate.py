# SPDX-License-Identifier: Apache-2.0
"""Interleaved accumulation: order of additions, slot distance, idle cycles, changing biases."""

import gc
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from amaranth.sim import Simulator

from lutvar.hw.units.accumulate import MIN_INTERVAL, Accumulator

BLOCK = 16


@dataclass
class Issue:
    """One addition as it enters the unit, or an idle cycle."""

    slot: int
    first: int
    bias: int
    inputs: dict[str, int]
    valid: int = 1


def number(rng: random.Random) -> int:
    return rng.getrandbits(1) << 31 | (100 + rng.getrandbits(5)) << 23 | rng.getrandbits(23)


def schedule(rng: random.Random, blocks: int, operands: Any, idle: float) -> Iterator[Issue]:
    """Blocks of sums, additions of a block in rounds, slots in a random order that repeats.

    Idle cycles carry garbage with `valid` low: they must change nothing.
    """
    for _ in range(blocks):
        slots = rng.sample(range(BLOCK), rng.randint(1, BLOCK))
        for step in range(rng.randint(1, 5)):
            for slot in slots:
                while rng.random() < idle:
                    yield Issue(rng.randrange(BLOCK), 1, number(rng), operands(rng), valid=0)
                yield Issue(slot, int(step == 0), number(rng), operands(rng))
            for _ in range(MIN_INTERVAL - len(slots)):
                yield Issue(rng.randrange(BLOCK), 0, number(rng), operands(rng), valid=0)


def run(unit: Any, issues: list[Issue]) -> list[int]:
    results: list[int] = []

    async def testbench(ctx: Any) -> None:
        for cycle in range(len(issues) + unit.LATENCY):
            if cycle < len(issues):
                issue = issues[cycle]
                for name in ("slot", "first", "bias", "valid"):
                    ctx.set(getattr(unit, name), getattr(issue, name))
                for name, value in issue.inputs.items():
                    ctx.set(getattr(unit, name), value)
            else:
                ctx.set(unit.valid, 0)
            if cycle >= unit.LATENCY:
                results.append(ctx.get(unit.y))
            await ctx.tick()

    simulator = Simulator(unit)
    simulator.add_clock(1e-6)
    simulator.add_testbench(testbench)
    simulator.run()
    return results


def as_float(pattern: int) -> np.float32:
    return np.uint32(pattern).view(np.float32)


def check(issues: list[Issue], results: list[int], term: Any) -> None:
    sums: dict[int, np.float32] = {}
    checked = 0
    for index, (issue, got) in enumerate(zip(issues, results, strict=True)):
        if not issue.valid:
            continue
        before = as_float(issue.bias) if issue.first else sums[issue.slot]
        sums[issue.slot] = np.float32(before + term(issue.inputs))
        want = int(sums[issue.slot].view(np.uint32))
        assert got == want, f"issue {index}, slot {issue.slot}: {got:08x}, not {want:08x}"
        checked += 1
    assert checked > 200


@pytest.mark.parametrize("idle", [0.0, 0.3])
def test_accumulator(idle: float) -> None:
    rng = random.Random(int(idle * 10))
    issues = list(schedule(rng, 60, lambda rng: {"p": number(rng)}, idle))
    results = run(Accumulator(BLOCK), issues)
    check(issues, results, lambda inputs: as_float(inputs["p"]))


def test_slot_at_the_least_distance_and_below() -> None:
    """A slot that comes back after MIN_INTERVAL sees its sum; one cycle earlier it would not."""

    def last_sum(distance: int) -> int:
        issues = [Issue(3, 1, 0x40000000, {"p": 0x3F800000})]
        issues += [Issue(0, 0, 0, {"p": 0}, valid=0)] * (distance - 1)
        issues += [Issue(3, 0, 0, {"p": 0x3F800000})]
        return run(Accumulator(BLOCK), issues)[-1]

    assert MIN_INTERVAL <= 16
    assert last_sum(MIN_INTERVAL) == 0x40800000  # 2 + 1 + 1
    assert last_sum(MIN_INTERVAL - 1) != 0x40800000


@pytest.mark.filterwarnings("ignore::amaranth.hdl.UnusedElaboratable")
def test_one_slot_is_refused() -> None:
    with pytest.raises(ValueError, match="block is 1"):
        Accumulator(1)
    gc.collect()  # what was refused must not be reported as unused later
