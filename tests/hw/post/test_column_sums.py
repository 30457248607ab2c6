# SPDX-License-Identifier: Apache-2.0
"""Sums of columns: results that come as close as `Issue` lets them, with pauses, and out again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lutvar.contract.column_sums import SumMode, integers, unpack
from lutvar.hw.post.column_sums import AGAIN, MODIFY, ColumnSums
from lutvar.hw.post.orders import PARTS
from lutvar.hw.post.orders import Path as Way
from support.hw.verilated_unit import UnitSimulator, build_unit

pytestmark = pytest.mark.verilator

RESULTS_AT = 9  #: cycles from `fire` to a part's results
NONE, BEGIN, ON = SumMode
SUM, COLUMNS = Way.SUM, Way.COLUMNS
#: (path, mode, block) of a row of 8 parts; of COLUMNS all quarters of a block.
Job = tuple[Way, int, int]
Cycle = dict[str, int]


@pytest.fixture(scope="module")
def library() -> Path:
    return build_unit(ColumnSums(RESULTS_AT))


def schedule(jobs: list[Job], pause: float, rng: np.random.Generator) -> list[Cycle]:
    """What enters in each cycle, nothing where there is a pause."""
    cycles: list[Cycle] = []
    for path, mode, block in jobs:
        for quarter in range(4 if path == COLUMNS else 1):
            for part in range(PARTS):
                while rng.random() < pause:
                    cycles.append({})
                cycles.append({"path": path, "sums": mode, "block": block, "part": part,
                               "quarter": quarter})  # fmt: skip
    return cycles


class Sums:
    """Exact sums in Python's integers."""

    def __init__(self) -> None:
        self.values, self.squares = np.zeros(2048, object), np.zeros(2048, object)

    def enter(self, cycle: Cycle, x: np.ndarray) -> list[tuple[int, int]]:
        """What a cycle hands out; results `x` of a part are added."""
        if cycle["path"] == COLUMNS:
            first = cycle["block"] * 128 + cycle["quarter"] * 32 + cycle["part"] * 4
            at = slice(first, first + 4)
            return list(zip(self.values[at], self.squares[at], strict=True))
        if cycle["path"] == SUM and cycle["sums"]:
            first = cycle["block"] * 128 + cycle["part"] * 16
            at, n = slice(first, first + 16), integers(x).astype(object)
            if cycle["sums"] == BEGIN:
                self.values[at] = self.squares[at] = 0
            self.values[at] += n
            self.squares[at] += n * n
        return []


def results(rng: np.random.Generator) -> np.ndarray:
    x = rng.normal(0, 30, 16).astype(np.float32)
    odd = rng.random(16) < 0.1
    x[odd] = rng.choice(np.array([0, -0.0, 8192, -1e9, 2**-11, 3 * 2**-11], np.float32), odd.sum())
    return x


def run(library: Path, cycles: list[Cycle], seed: int) -> tuple[list[Any], list[Any]]:
    """Columns (S1, S2) that leave the unit, and those that should."""
    rng = np.random.default_rng(seed)
    unit, sums = ColumnSums(RESULTS_AT), Sums()
    found: list[tuple[int, int]] = []
    expected: list[tuple[int, int]] = []
    fed: dict[int, np.ndarray] = {}
    for at, cycle in enumerate(cycles):
        if cycle:
            fed[at + RESULTS_AT] = results(rng)
            expected += sums.enter(cycle, fed[at + RESULTS_AT])

    async def testbench(ctx: Any) -> None:
        for at in range(len(cycles) + unit.latency + 2):
            cycle = cycles[at] if at < len(cycles) else {}
            ctx.set(unit.fire, bool(cycle))
            ctx.set(unit.job.path, cycle.get("path", rng.integers(5)))
            ctx.set(unit.job.sums, cycle.get("sums", rng.integers(3)))
            for name, count in (("block", 16), ("part", PARTS), ("quarter", 4)):
                ctx.set(getattr(unit, name), cycle.get(name, rng.integers(count)))
            ctx.set(unit.results, int.from_bytes(fed.get(at, results(rng)).tobytes(), "little"))
            if ctx.get(unit.push):
                raw = np.frombuffer(int(ctx.get(unit.beat)).to_bytes(64, "little"), np.uint8)
                found.extend(zip(*(part.tolist() for part in unpack(raw)), strict=True))
            await ctx.tick()

    simulator = UnitSimulator(unit, library)
    simulator.add_clock(1e-6)
    simulator.add_testbench(testbench)
    simulator.run()
    simulator.close()
    return found, expected


@pytest.mark.parametrize("pause", [0.0, 0.3, 0.8])
def test_rows_and_columns(library: Path, pause: float) -> None:
    """Rows of all blocks, and one block's over and over; begun again right behind SUMS."""
    rng = np.random.default_rng(int(10 * pause))
    jobs: list[Job] = [(SUM, BEGIN, block) for block in range(16)]
    jobs += [(SUM, ON, 3)] * 9 + [(COLUMNS, 0, 3)] * 2 + [(SUM, BEGIN, 3), (COLUMNS, 0, 3)]
    jobs += [(SUM, NONE, 3), (Way.NORM, ON, 3), (Way.GELU, BEGIN, 3), (COLUMNS, 0, 3)]
    for _ in range(30):
        jobs.append((SUM, int(rng.integers(3)), int(rng.integers(16))))
    jobs += [(COLUMNS, 0, block) for block in range(16)]
    found, expected = run(library, schedule(jobs, pause, rng), 5)
    assert len(expected) == 20 * 128
    assert found == expected


def test_sums_of_many_rows_reach_their_widths(library: Path) -> None:
    """Rows of the largest results: S1 and S2 carry into their upper bits."""
    cycles: list[Cycle] = []
    rng = np.random.default_rng(1)
    jobs: list[Job] = [(SUM, BEGIN, 0)] + [(SUM, ON, 0)] * 600 + [(COLUMNS, 0, 0)]
    cycles = schedule(jobs, 0.0, rng)
    found, expected = run(library, cycles, 6)
    assert found == expected
    assert max(s2 for _, s2 in found) > 1 << 50
    assert min(s1 for s1, _ in found) < 0


@pytest.mark.parametrize("distance", range(1, AGAIN + 1))
def test_how_soon_a_word_may_come_again(library: Path, distance: int) -> None:
    """`Issue` keeps a distance of `AGAIN`; up to `MODIFY` the sum of the word would be wrong."""
    part = {"path": SUM, "sums": ON, "block": 0, "part": 0, "quarter": 0}
    cycles = schedule([(SUM, BEGIN, 0)], 0.0, np.random.default_rng(0)) + [{}] * AGAIN
    cycles += [part, *[{}] * (distance - 1)] * 3 + [{}] * AGAIN
    cycles += schedule([(COLUMNS, 0, 0)], 0.0, np.random.default_rng(0))
    found, expected = run(library, cycles, 7)
    assert (found == expected) == (distance > MODIFY)
