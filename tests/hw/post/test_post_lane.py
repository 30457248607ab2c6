# SPDX-License-Identifier: Apache-2.0
"""The lanes of POST against the golden functions."""

import numpy as np
import pytest
from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.sim import Simulator

from lutvar.contract import functions
from lutvar.hw.post.lane import GeluLane, HalfLane
from lutvar.hw.post.multiply_add import (
    HALF_AS_FLOAT,
    DspMultiplyAdd,
    MultiplyAdd,
    PortableMultiplyAdd,
)
from lutvar.quant.golden import pointwise

FORMS = pytest.mark.parametrize(
    "form", [PortableMultiplyAdd, DspMultiplyAdd], ids=["portable", "dsp58"]
)


class HalfChain(wiring.Component):
    """The three parts of a lane as `Lanes` joins them, without registers between."""

    y: In(32)
    g: In(HALF_AS_FLOAT)
    x: In(32)
    direct: In(1)
    half: Out(16)

    def __init__(self, form: type[MultiplyAdd]) -> None:
        self.form = form
        self.lead = GeluLane.LATENCY + form.LATENCY  #: how much longer GELU takes
        super().__init__()

    def elaborate(self, platform) -> Module:
        m = Module()
        m.submodules.gelu, m.submodules.scale = gelu, scale = GeluLane(), self.form()
        m.submodules.half = half = HalfLane()
        m.d.comb += [
            gelu.y.eq(self.y), scale.y.eq(gelu.t), scale.g.eq(self.g), scale.x.eq(self.x),
            half.y.eq(self.y), half.scaled.eq(scale.s), half.direct.eq(self.direct),
            self.half.eq(half.half),
        ]  # fmt: skip
        return m


class NormChain(wiring.Component):
    """NORM's way through the same parts."""

    y: In(32)
    g: In(HALF_AS_FLOAT)
    x: In(32)
    gate: In(1)
    half: Out(16)

    def __init__(self, form: type[MultiplyAdd]) -> None:
        self.form = form
        super().__init__()

    def elaborate(self, platform) -> Module:
        m = Module()
        m.submodules.scale, m.submodules.gelu = scale, gelu = self.form(), GeluLane(silu=True)
        m.submodules.half = half = HalfLane()
        m.d.comb += [
            scale.y.eq(self.y), scale.g.eq(self.g), scale.x.eq(self.x),
            gelu.y.eq(scale.s), gelu.norm.eq(1), gelu.gate.eq(self.gate),
            half.y.eq(gelu.t), half.direct.eq(1), self.half.eq(half.half),
        ]  # fmt: skip
        return m


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


def as_float(g) -> np.ndarray:
    """What `MultiplyAdd` takes as factor: the upper bits of a float32."""
    return g.astype(np.float32).view(np.uint32) >> 32 - HALF_AS_FLOAT


def run_sum(form, y, g, x) -> np.ndarray:
    fed = {"y": y.view(np.uint32), "g": as_float(g), "x": x.view(np.uint32)}
    lags = {"y": 0, "g": 0, "x": form.X_LAG}
    return run_lane(form(), lags, fed, "s", form.LATENCY).astype(np.uint32)


def run_gelu(form, y, g=None, shift=None) -> np.ndarray:
    """Through the chain; without g and shift as programs say it: factor 1, +0 added."""
    g = np.ones(len(y), np.float16) if g is None else g
    shift = np.zeros(len(y), np.float16) if shift is None else shift
    chain = HalfChain(form)
    fed = {
        "y": y.view(np.uint32), "g": as_float(g),
        "x": shift.astype(np.float32).view(np.uint32),
    }  # fmt: skip
    lags = {"y": 0, "g": GeluLane.LATENCY, "x": GeluLane.LATENCY + form.X_LAG}
    return run_lane(chain, lags, fed, "half", chain.lead + HalfLane.LATENCY).astype(np.uint16)


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


@FORMS
def test_sum(form) -> None:
    y, g, x = vectors(0, 1500)
    assert np.array_equal(run_sum(form, y, g, x), pointwise.add(x, y, g).view(np.uint32))


@FORMS
def test_product_alone(form) -> None:
    y, g, _ = vectors(3, 800)
    found = run_sum(form, y, g, np.zeros_like(y))
    assert np.array_equal(found, pointwise.store(y, g).view(np.uint32))


def exact_gelu(y) -> np.ndarray:
    """What GELU is without factor and shift: one rounding of the exact product."""
    gate = functions.gelu_factor(y).astype(np.float64) * 2.0**-functions.GELU_ONE
    return pointwise.fp16(y.astype(np.float64) * gate).view(np.uint16)


@FORMS
def test_gelu_alone(form) -> None:
    y, _, _ = vectors(1, 1500)
    found = run_gelu(form, y)
    assert np.array_equal(found, exact_gelu(y))
    assert np.array_equal(found, pointwise.gelu(y).view(np.uint16))


@FORMS
def test_gelu_with_factor_and_shift(form) -> None:
    y, g, x = vectors(7, 3000)
    shift = np.clip(x, -65504, 65504).astype(np.float16)
    shift[::9] = (shift[::9].astype(np.float32) * 2.0**-20).astype(np.float16)  # subnormal
    # Sums that cancel but for the last bits, and some that cancel altogether.
    t = pointwise.gelu(y, g)
    shift[3::13] = -t[3::13]
    found = run_gelu(form, y, g, shift)
    assert np.array_equal(found, pointwise.gelu(y, g, shift).view(np.uint16))
    assert np.array_equal(run_gelu(form, y, g), pointwise.gelu(y, g).view(np.uint16))
    assert (found[3::13] == 0).any()


@FORMS
def test_two_roundings_of_a_sum(form) -> None:
    """Float32 first, then FP16: sums beside the middle of two FP16 numbers show both."""
    y = np.full(400, 32.0, np.float32)  # the gate is 1
    g = (1 + np.arange(400) % 7 * 2.0**-10).astype(np.float16)
    shift = ((1 + 2.0**-10 * np.arange(400)) * 2.0 ** -(9 + np.arange(400) % 16)).astype(np.float16)
    want = pointwise.gelu(y, g, shift)
    once = (np.float64(y) * g.astype(np.float64) + shift.astype(np.float64)).astype(np.float16)
    assert np.array_equal(run_gelu(form, y, g, shift), want.view(np.uint16))
    assert np.allclose(want.astype(np.float32), once.astype(np.float32), rtol=2.0**-10)


def test_direct() -> None:
    y, _, _ = vectors(1, 1500)
    fed = {"y": y.view(np.uint32), "direct": np.ones(len(y), int)}
    chain = HalfChain(PortableMultiplyAdd)
    found = run_lane(chain, {"y": 0, "direct": 0}, fed, "half", HalfLane.LATENCY)
    assert np.array_equal(found.astype(np.uint16), pointwise.fp16(y).view(np.uint16))


def test_direct_and_gelu_share_the_conversion() -> None:
    """A direct value takes the place of the GELU that is ready with it, of no other."""
    y, _, _ = vectors(4, 600)
    chain = HalfChain(PortableMultiplyAdd)
    direct = np.random.default_rng(6).random(len(y)) < 0.5
    one = as_float(np.ones(len(y), np.float16))
    fed = {"y": y.view(np.uint32), "g": one, "direct": direct}
    lags = {"y": 0, "g": 0, "direct": 0}
    found = run_lane(chain, lags, fed, "half", HalfLane.LATENCY)
    gelu = np.roll(pointwise.gelu(y), chain.lead)
    want = np.where(direct, pointwise.fp16(y), gelu).view(np.uint16)
    assert np.array_equal(found[chain.lead :], want[chain.lead :])


@FORMS
def test_gelu_ties(form) -> None:
    """Products beside the middle of two FP16 numbers: one rounding only."""
    rng = np.random.default_rng(5)
    large = rng.integers(1 << 10, 1 << 11, 1500) * 2 + 1
    y = np.concatenate([large[:500] * 2.0**-4, large[500:] * 2.0 ** rng.integers(-8, -3, 1000)])
    y = y.astype(np.float32)  # from 8 on the gate is 1: exact ties
    y = np.concatenate([y, np.nextafter(y, np.float32(0)), np.nextafter(y, np.float32(1e9))])
    assert np.array_equal(run_gelu(form, y), exact_gelu(y))


@FORMS
def test_norm(form) -> None:
    """With and without gate in turn; where the factor is 1 and nothing is added, a copy."""
    y, g, x = vectors(9, 3000)
    rng = np.random.default_rng(9)
    shift = np.clip(x, -65504, 65504).astype(np.float16)
    shift[::9] = (shift[::9].astype(np.float32) * 2.0**-20).astype(np.float16)  # subnormal
    g[1::5], shift[1::5] = 1, 0
    gate = rng.integers(0, 2, len(y))
    fed = {
        "y": y.view(np.uint32), "g": as_float(g), "gate": gate,
        "x": shift.astype(np.float32).view(np.uint32),
    }  # fmt: skip
    lags = {"y": 0, "g": 0, "x": form.X_LAG, "gate": form.LATENCY}
    latency = form.LATENCY + GeluLane.LATENCY + HalfLane.LATENCY
    found = run_lane(NormChain(form), lags, fed, "half", latency).astype(np.uint16)
    want = [pointwise.normalise(y, g, shift, gate=bool(n)).view(np.uint16) for n in range(2)]
    assert np.array_equal(found, np.where(gate == 1, want[1], want[0]))
    copied = (gate == 0) & (np.arange(len(y)) % 5 == 1)
    assert np.array_equal(found[copied], pointwise.fp16(y[copied]).view(np.uint16))
