# SPDX-License-Identifier: Apache-2.0
"""Accumulators of a row group: pairs of columns, pauses, least distances, drains at any time."""

from __future__ import annotations

import random

import numpy as np
import pytest

from lutvar.contract.accelerator import ROW_GROUP
from lutvar.hw.inspection import for_inspection
from lutvar.hw.matrix.accumulate import GroupAccumulator
from lutvar.hw.matrix.chain import vector_layout
from lutvar.hw.matrix.dot_form import sum_bits
from lutvar.hw.units.memory import READ_LATENCY
from support.hw.floats import fp16
from support.hw.matrix import small
from support.hw.verilated_unit import UnitSimulator, build_unit

pytestmark = pytest.mark.verilator

CONFIG = small(acc_banks=3, acc_depth=128)
TOP = (1 << sum_bits(CONFIG) - 1) - 1
NUMBERS = list[np.float32]
_UNIT = for_inspection(GroupAccumulator(CONFIG))
LATENCY, MIN_INTERVAL = _UNIT.latency, _UNIT.min_interval


@pytest.fixture(scope="module")
def library():
    return build_unit(GroupAccumulator(CONFIG))


class Harness:
    """Issues sums, drains at random, and knows what each pair must hold and from when."""

    def __init__(self, library, seed: int) -> None:
        self.dut = GroupAccumulator(CONFIG)
        self.simulator = UnitSimulator(self.dut, library)
        self.rng = random.Random(seed)
        self.cycle = 0
        self.held: dict[tuple[int, int], NUMBERS] = {}  # (bank, column) -> values of the rows
        self.ready: dict[tuple[int, int], int] = {}  # (bank, pair) -> first cycle to read it
        self.asked: list[tuple[list[NUMBERS] | None, tuple[int, int]]] = []
        self.checked = 0

    def run(self, scenario) -> None:
        async def whole(ctx):
            await scenario()
            for _ in range(LATENCY):
                await self.step()
            for place in self.ready:
                await self.step(drain=place)
            for _ in range(READ_LATENCY):
                await self.step()

        self.simulator.add_testbench(whole)
        self.simulator.run()
        self.simulator.close()

    async def step(self, issue=None, drain=None) -> None:
        """One cycle; `issue`: (bank, column, first)."""
        dut, rng, ctx = self.dut, self.rng, self.simulator
        ctx.set(dut.valid, issue is not None)
        bank, column, first = issue or (rng.randrange(3), rng.randrange(128), rng.getrandbits(1))
        ws, e, bias = rng.getrandbits(15), rng.randint(-20, 5), self._number()
        fields = {
            "bank": bank, "column": column, "first": first, "ws": ws, "exponent": e,
            "bias": int(bias.view(np.uint32)),
        }  # fmt: skip
        layout, bits = vector_layout(CONFIG), sum_bits(CONFIG)
        ctx.set(dut.scale, ws | (e & 63) << 16)
        ctx.set(dut.vector, _packed((layout[k].offset, layout[k].width, fields[k]) for k in fields))
        d = [rng.randint(-TOP, TOP) for _ in range(ROW_GROUP)]
        scales = [rng.getrandbits(15) if rng.random() < 0.9 else 0 for _ in range(ROW_GROUP)]
        ctx.set(dut.sums, _packed((bits * row, bits, value) for row, value in enumerate(d)))
        ctx.set(dut.m, _packed((16 * row, 16, value) for row, value in enumerate(scales)))
        # 15 significant bits times 22: exact in float64, so this rounds once.
        factor = fp16(ws) * 2.0**e
        terms = [np.float32(n * fp16(s) * factor) for n, s in zip(d, scales, strict=True)]
        if issue:
            before = [bias] * ROW_GROUP if first else self.held[bank, column]
            self.held[bank, column] = [
                np.float32(b + t) for b, t in zip(before, terms, strict=True)
            ]
            self.ready[bank, column >> 1] = self.cycle + LATENCY
        where = drain or (rng.randrange(3), rng.randrange(12))
        ctx.set(dut.drain_bank, where[0])
        ctx.set(dut.drain_pair, where[1])
        known = where in self.ready and self.ready[where] <= self.cycle
        columns = [self.held[where[0], 2 * where[1] + c] for c in range(2)] if known else None
        self.asked.append((columns, where))
        if len(self.asked) > READ_LATENCY:
            self._check(*self.asked.pop(0))
        await ctx.tick()
        self.cycle += 1

    def _check(self, columns, where) -> None:
        if columns is None:
            return
        for c in range(2):
            for row in range(ROW_GROUP):
                got = np.uint32(self.simulator.get(self.dut.drained[row + ROW_GROUP * c]))
                want = columns[c][row] + np.float32(0)
                got = got.view(np.float32) + np.float32(0)
                assert got.view(np.uint32) == want.view(np.uint32), (self.cycle, where, c, row)
        self.checked += 1

    def _number(self) -> np.float32:
        rng = self.rng
        pattern = rng.getrandbits(1) << 31 | (100 + rng.getrandbits(5)) << 23 | rng.getrandbits(23)
        return np.uint32(pattern).view(np.float32)


def _packed(parts) -> int:
    """One word from (place, bits, value) of its parts."""
    return sum((value & (1 << bits) - 1) << at for at, bits, value in parts)


@pytest.mark.parametrize("idle", [0.0, 0.2, 0.6])
def test_passes_over_banks_with_pauses(library, idle) -> None:
    harness = Harness(library, int(idle * 10))
    rng = random.Random(5)

    async def passes():
        odd_at: dict[tuple[int, int], int] = {}
        for _ in range(18):
            bank, pairs = rng.randrange(3), rng.randint(1, 12)
            for number in range(rng.randint(1, 4)):
                for column in range(2 * pairs):
                    place = bank, column >> 1
                    soonest = odd_at.get(place, -99) + MIN_INTERVAL
                    while rng.random() < idle or (not column & 1 and harness.cycle < soonest):
                        await harness.step()
                    odd_at[place] = harness.cycle
                    await harness.step((bank, column, number == 0))

    harness.run(passes)
    assert harness.checked > 100


def test_every_short_pattern_of_pauses(library) -> None:
    """All patterns of 0 or 1 idle cycles between three pairs whose reads meet earlier results."""
    harness = Harness(library, 9)

    async def patterns():
        lead = LATENCY
        for number in range(2**5):
            pauses = [number >> k & 1 for k in range(5)]
            for start in (0, 6):  # results of the first three meet reads of the others
                for column, pause in zip(range(start, start + 6), [*pauses, 0], strict=True):
                    await harness.step((number % 3, column, number < 3))
                    for _ in range(pause):
                        await harness.step()
                for _ in range(lead - 12 - sum(pauses) if start == 0 else lead):
                    await harness.step()

    harness.run(patterns)
    assert harness.checked > 300


def test_least_distance_is_needed(library) -> None:
    """One cycle less than `MIN_INTERVAL`, and the sums of the pass before are missed."""
    for distance, right in ((MIN_INTERVAL, True), (0, False)):
        harness = Harness(library, 3)

        async def twice(harness=harness, distance=distance or MIN_INTERVAL - 1):
            plan = {0: 4, 1: 5, 1 + distance: 4, 2 + distance: 5}
            for cycle in range(distance + 3):
                column = plan.get(cycle)
                await harness.step(None if column is None else (0, column, cycle < distance))

        if right:
            harness.run(twice)
        else:
            with pytest.raises(AssertionError):
                harness.run(twice)
