# SPDX-License-Identifier: Apache-2.0
"""Sums, statistics and a lane of LayerNorm to the last float32 bit, which codes would hide."""

import random

import numpy as np
from amaranth.sim import Simulator

from lutvar.hw.front.normalise import NormaliseLane
from lutvar.hw.front.statistics import RowStatistics
from lutvar.hw.front.sums import RowSums
from lutvar.quant.golden.norm import inverse_width, row_sum
from lutvar.quant.golden.pointwise import fp16, rsqrt
from support.hw.pipeline import run_pipeline


def rows_of(widths: list[int], seed: int) -> list[np.ndarray]:
    """FP16 rows whose sums round often: wide spread of exponents, subnormals, zeros."""
    rng = np.random.default_rng(seed)
    rows = []
    for width in widths:
        x = rng.normal(0.3, 1, width) * np.exp2(rng.integers(-22, 12, width))
        x[rng.random(width) < 0.1] = 0
        rows.append(x.astype(np.float16))
    return rows


def test_sums() -> None:
    """Rows of 8, 16, 24 and 40 words, back to back and with pauses, one cycle of gap for sums."""
    widths = [128, 128, 384, 128, 256, 640, 128, 128, 128, 256]
    rows = rows_of(widths, 1)
    rng = random.Random(2)
    unit = RowSums(8)
    seen: list[tuple[int, int]] = []
    expected = []
    for row in rows:
        x = row.astype(np.float32)
        expected.append(tuple(int(row_sum(v).view(np.uint32)) for v in (x, x * x)))

    async def testbench(ctx) -> None:
        words = [
            (w, 16 * (w + 1) == len(row), row[16 * w :][:16].view(np.uint16).tolist())
            for row in rows
            for w in range(len(row) // 16)
        ]
        busy = -1  # cycle in which no word may come
        reserved: list[int] = []
        cycle = 0
        while len(seen) < len(rows):
            assert cycle < 1500
            busy = reserved[0] if reserved else -1
            pause = 100 < cycle < 200 and rng.random() < 0.4
            valid = bool(words) and cycle != busy and not pause
            if busy == cycle:
                reserved.pop(0)
            ctx.set(unit.valid, valid)
            if valid:
                word, last, patterns = words.pop(0)
                if last:
                    reserved.append(cycle + RowSums.GAP)
            else:
                word, last, patterns = 0, True, [rng.getrandbits(16) for _ in range(16)]
            ctx.set(unit.word, word)
            ctx.set(unit.last, last)
            ctx.set(unit.x, patterns)
            _, _, done, total, squares = await ctx.tick().sample(
                unit.done, unit.total, unit.squares
            )
            if done:
                seen.append((total, squares))
            cycle += 1

    simulator = Simulator(unit)
    simulator.add_clock(1e-6)
    simulator.add_testbench(testbench)
    simulator.run()
    assert seen == expected


def bits(x: np.ndarray) -> list[int]:
    return x.view(np.uint32).tolist()


def test_statistics() -> None:
    rng = np.random.default_rng(3)
    count = 600
    width = rng.choice([128, 384, 1920, 2304], count)
    inverse = np.array([inverse_width(w) for w in width], np.float32)
    mean = rng.normal(0, 1, count) * np.exp2(rng.integers(-10, 10, count))
    total = (mean * width).astype(np.float32)
    squares = ((mean**2 + np.exp2(rng.integers(-30, 20, count))) * width).astype(np.float32)
    squares[:80] = (mean[:80] ** 2 * width[:80]).astype(np.float32)  # variance about 0, both signs
    total[80:90] = squares[80:90] = 0
    epsilon = rng.choice(np.array([1e-6, 1e-5, 0.25], np.float32), count)

    low = total * inverse
    variance = squares * inverse - low * low
    assert (variance < 0).any() and (variance == 0).any()
    root = rsqrt(np.maximum(variance, np.float32(0)) + epsilon).astype(np.float32)

    inputs = [
        {"total": t, "squares": s, "inverse_width": i, "valid": 1}
        for t, s, i in zip(bits(total), bits(squares), bits(inverse), strict=True)
    ]
    idle = {"total": 1, "squares": 2, "inverse_width": 3, "valid": 0}
    late = RowStatistics.EPSILON_AT
    inputs = [*inputs, *[idle] * late]
    for cycle, at in enumerate(inputs):
        inputs[cycle] = {**at, "epsilon": bits(epsilon)[cycle - late] if cycle >= late else 7}
    results = run_pipeline(
        RowStatistics(), inputs, ("mean", "root", "done"), latency=RowStatistics.LATENCY
    )
    assert [r[2] for r in results] == [1] * count + [0] * late
    assert [r[0] for r in results[:count]] == bits(low)
    assert [r[1] for r in results[:count]] == bits(root)


def test_lane() -> None:
    rng = np.random.default_rng(4)
    count = 1500
    x, scale, shift = (
        (rng.normal(0, 1, count) * np.exp2(rng.integers(-20, 8, count))).astype(np.float16)
        for _ in range(3)
    )
    for values in (x, scale, shift):
        values[rng.random(count) < 0.1] = 0
        values[rng.random(count) < 0.05] = np.float16(-65504)
    mean = (rng.normal(0, 1, count) * np.exp2(rng.integers(-20, 8, count))).astype(np.float32)
    mean[::9] = x[::9]
    mean[1::50] = 0
    variance = np.exp2(rng.uniform(-20, 20, count)).astype(np.float32)
    root = rsqrt(variance).astype(np.float32)

    steps = (x.astype(np.float32) - mean) * root * scale.astype(np.float32)
    expected = fp16(steps + shift.astype(np.float32)).view(np.uint16)

    lane = NormaliseLane
    at = {"x": 0, "mean": lane.MEAN_AT, "root": lane.ROOT_AT, "scale": lane.SCALE_AT}
    at["shift"] = lane.SHIFT_AT
    operands: dict[str, np.ndarray] = {
        "x": x.view(np.uint16), "mean": mean.view(np.uint32), "root": root.view(np.uint32),
        "scale": scale.view(np.uint16), "shift": shift.view(np.uint16),
    }  # fmt: skip
    inputs = [
        {name: int(operands[name][(cycle - lag) % count]) for name, lag in at.items()}
        for cycle in range(count + lane.LATENCY)
    ]
    results = run_pipeline(NormaliseLane(), inputs, ("z",), latency=lane.LATENCY)
    assert [z for (z,) in results[:count]] == expected.tolist()
