# SPDX-License-Identifier: Apache-2.0
"""The lanes of POST against the golden functions."""

import numpy as np
from amaranth.sim import Simulator

from lutvar.hw.post.lane import HalfLane, SumLane
from lutvar.quant.golden import pointwise


def run_lane(lane, lags: dict[str, int], fed: dict[str, np.ndarray], output: str, latency: int):
    """Patterns of `output`; each input is fed back to back, `lags` cycles late."""
    count, found = len(fed["y"]), []

    async def testbench(ctx) -> None:
        for cycle in range(count + latency):
            for name, lag in lags.items():
                if 0 <= cycle - lag < count:
                    ctx.set(getattr(lane, name), int(fed[name][cycle - lag]))
            if cycle >= latency:
                found.append(ctx.get(getattr(lane, output)))
            await ctx.tick()

    simulator = Simulator(lane)
    simulator.add_clock(1e-6)
    simulator.add_testbench(testbench)
    simulator.run()
    return np.array(found)


def run_sum(y, g, x) -> np.ndarray:
    lags = {"y": SumLane.G_LEAD, "g": 0, "x": SumLane.G_LEAD + SumLane.X_LAG}
    fed = {"y": y.view(np.uint32), "g": g.view(np.uint16), "x": x.view(np.uint32)}
    latency = SumLane.G_LEAD + SumLane.LATENCY
    return run_lane(SumLane(), lags, fed, "sum", latency).astype(np.uint32)


def run_half(y, direct: int) -> np.ndarray:
    fed = {"y": y.view(np.uint32), "direct": np.full(len(y), direct)}
    latency = HalfLane.DIRECT_LATENCY if direct else HalfLane.LATENCY
    found = run_lane(HalfLane(), {"y": 0, "direct": 0}, fed, "half", latency)
    return found.astype(np.uint16)


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


def test_sum() -> None:
    y, g, x = vectors(0, 1500)
    assert np.array_equal(run_sum(y, g, x), pointwise.add(x, y, g).view(np.uint32))


def test_product_alone() -> None:
    y, g, _ = vectors(3, 800)
    assert np.array_equal(run_sum(y, g, np.zeros_like(y)), pointwise.store(y, g).view(np.uint32))


def test_half() -> None:
    y, _, _ = vectors(1, 1500)
    assert np.array_equal(run_half(y, 0), pointwise.gelu(y).view(np.uint16))
    assert np.array_equal(run_half(y, 1), pointwise.fp16(y).view(np.uint16))


def test_direct_and_gelu_share_the_conversion() -> None:
    """A direct value takes the place of the GELU that is ready with it, of no other."""
    y, _, _ = vectors(4, 600)
    lead = HalfLane.GELU_LEAD
    direct = np.random.default_rng(6).random(len(y)) < 0.5
    fed = {"y": y.view(np.uint32), "direct": direct}
    found = run_lane(HalfLane(), {"y": 0, "direct": 0}, fed, "half", HalfLane.DIRECT_LATENCY)
    gelu = np.roll(pointwise.gelu(y), lead)
    want = np.where(direct, pointwise.fp16(y), gelu).view(np.uint16)
    assert np.array_equal(found[lead:], want[lead:])


def test_gelu_ties() -> None:
    """Products beside the middle of two FP16 numbers: one rounding only."""
    rng = np.random.default_rng(5)
    large = rng.integers(1 << 10, 1 << 11, 1500) * 2 + 1
    y = np.concatenate([large[:500] * 2.0**-4, large[500:] * 2.0 ** rng.integers(-8, -3, 1000)])
    y = y.astype(np.float32)  # from 8 on the gate is 1: exact ties
    y = np.concatenate([y, np.nextafter(y, np.float32(0)), np.nextafter(y, np.float32(1e9))])
    assert np.array_equal(run_half(y, 0), pointwise.gelu(y).view(np.uint16))
