# SPDX-License-Identifier: Apache-2.0
"""A lane of POST against the golden functions."""

import numpy as np
import pytest
from amaranth.sim import Simulator

from lutvar.hw.post.lane import PostLane
from lutvar.quant.golden import pointwise


def run_lane(y, g, x, gelu: int) -> tuple[np.ndarray, np.ndarray]:
    """Sums and halves of values fed back to back."""
    lane, count = PostLane(), len(y)
    lag = {"y": PostLane.G_LEAD, "g": 0, "x": PostLane.G_LEAD + PostLane.X_LAG}
    bits = {"y": y.view(np.uint32), "g": g.view(np.uint16), "x": x.view(np.uint32)}
    after_sum = PostLane.G_LEAD + PostLane.SUM_LATENCY
    after_half = PostLane.G_LEAD + (PostLane.GELU_LATENCY if gelu else PostLane.HALF_LATENCY)
    sums, halves = [], []

    async def bench(ctx) -> None:
        ctx.set(lane.gelu, gelu)
        for cycle in range(count + max(after_sum, after_half)):
            for name, delay in lag.items():
                if 0 <= cycle - delay < count:
                    ctx.set(getattr(lane, name), int(bits[name][cycle - delay]))
            if 0 <= cycle - after_sum < count:
                sums.append(ctx.get(lane.sum))
            if 0 <= cycle - after_half < count:
                halves.append(ctx.get(lane.half))
            await ctx.tick()

    simulator = Simulator(lane)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    return np.array(sums, np.uint32), np.array(halves, np.uint16)


def vectors(seed: int, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = rng.normal(0, 2, count).astype(np.float32)
    y[: count // 4] *= (2.0 ** rng.integers(-40, 30, count // 4)).astype(np.float32)
    g = rng.normal(0, 1, count).astype(np.float16)
    g[::7] = (rng.normal(size=g[::7].shape) * 1e-6).astype(np.float16)  # subnormal
    x = rng.normal(0, 3, count).astype(np.float32)
    for values, edges in (
        (y, [0.0, -0.0, 1.0, -8.0, 8.0, -9.0, 65503.9, 65504, 65520, -7e4, 2.0**-24, -(2.0**-26)]),
        (g, [0.0, -0.0, 1.0, -1.0, 65504, 2.0**-24]),
        (x, [0.0, -0.0, 1.0]),
    ):
        values[rng.random(count) < 0.2] = 0
        at = rng.choice(count, count // 4)
        values[at] = np.array(edges, values.dtype)[rng.integers(0, len(edges), len(at))]
    x[5:count:11] = -(y[5:count:11] * g[5:count:11].astype(np.float32)) + np.float32(0)
    return y, g, x


@pytest.mark.parametrize("gelu", [0, 1])
def test_lane(gelu: int) -> None:
    y, g, x = vectors(gelu, 1500)
    sums, halves = run_lane(y, g, x, gelu)
    want = pointwise.add(x, y, g).view(np.uint32)
    assert np.array_equal(sums, want)
    want = (pointwise.gelu(y) if gelu else pointwise.fp16(y)).view(np.uint16)
    assert np.array_equal(halves, want)


def test_product_alone() -> None:
    y, g, _ = vectors(3, 800)
    sums, _ = run_lane(y, g, np.zeros_like(y), 0)
    assert np.array_equal(sums, pointwise.store(y, g).view(np.uint32))


def test_gelu_ties() -> None:
    """Products beside the middle of two FP16 numbers: one rounding only."""
    rng = np.random.default_rng(5)
    large = rng.integers(1 << 10, 1 << 11, 1500) * 2 + 1
    y = np.concatenate([large[:500] * 2.0**-4, large[500:] * 2.0 ** rng.integers(-8, -3, 1000)])
    y = y.astype(np.float32)  # from 8 on the gate is 1: exact ties
    y = np.concatenate([y, np.nextafter(y, np.float32(0)), np.nextafter(y, np.float32(1e9))])
    _, halves = run_lane(y, np.zeros(len(y), np.float16), np.zeros_like(y), 1)
    assert np.array_equal(halves, pointwise.gelu(y).view(np.uint16))
