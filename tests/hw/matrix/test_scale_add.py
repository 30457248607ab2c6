# SPDX-License-Identifier: Apache-2.0
"""Both forms of scaling and addition behind a row against exact arithmetic, and their timing."""

from __future__ import annotations

import gc
import random
from typing import Any

import numpy as np
import pytest
from amaranth.hdl import Const, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.sim import Simulator

from lutvar.contract.identity import accelerator_hash
from lutvar.hw.matrix.dot_form import sum_bits
from lutvar.hw.matrix.scale_add import (
    DspScaleAdd,
    make_scale_add,
    scale_add_timing,
    scale_bits,
    weight_scale,
)
from support.hw.floats import fp16
from support.hw.matrix import small

SCALE_CYCLES = 4
BOUNDARIES = (0, 0x400, 0x401, 0x3C00, 0x5555, 0x7BFF, 0x7C00, 0x7FFF)


class Row(wiring.Component):
    """A row with the conversion of its weight scale."""

    d: Signal
    m: Signal
    stored: Signal
    s: Signal
    ws: Signal
    e: Signal
    seen: Signal

    def __init__(self, config: Any) -> None:
        self.config, self.row = config, make_scale_add(config)
        members = dict(self.row.signature.members)
        del members["scale"]
        super().__init__({**members, "ws": In(16), "e": In(6), "seen": Out(scale_bits(config))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.row = row = self.row
        m.d.comb += [
            row.d.eq(self.d),
            row.m.eq(self.m),
            row.scale.eq(weight_scale(m, self.config, self.ws, self.e, SCALE_CYCLES)),
            row.stored.eq(self.stored),
            self.s.eq(row.s),
            self.seen.eq(row.scale),
        ]
        return m


def vectors(bits: int, count: int) -> list[tuple[int, int, int, int]]:
    """Sums, scales and powers of two: boundaries in all pairs, then random ones."""
    rng, top = random.Random(bits), (1 << bits - 1) - 1
    found = [
        (d, m, ws, e)
        for m in BOUNDARIES
        for ws in (*BOUNDARIES, 1, 0x3FF)
        for d, e in ((0, 0), (1, -32), (-1, 31), (top, -32), (-top, 31), (top - 1, 7))
    ]
    for _ in range(count):
        m = rng.choice((0, rng.randrange(0x400, 0x8000), rng.randrange(0x3800, 0x4400)))
        ws = rng.getrandbits(15) >> rng.choice((0, 0, 6))
        found.append((rng.randint(-top, top) >> rng.randrange(bits), m, ws, rng.randint(-32, 31)))
    return found


@pytest.mark.parametrize("quant", ["fp4", "fp6"])
@pytest.mark.parametrize("form", ["portable", "dsp58"])
def test_one_rounding_then_one_addition(quant: str, form: str) -> None:
    config = small(quant, float32=form)
    cases, timing = vectors(sum_bits(config), 1500), scale_add_timing(config)
    rng, unit = random.Random(1), Row(config)
    stored, want = [], []
    for d, m, ws, e in cases:
        # 22 significant bits times 19: exact in float64, so this rounds once.
        p = np.float32(d * fp16(m) * fp16(ws) * 2.0**e + 0.0)
        kind = rng.random()
        held = np.float32(rng.gauss(0, 1) * 10.0 ** rng.randint(-8, 12))
        if kind < 0.3:
            held = np.float32(-p * (1 if kind < 0.1 else 1 + rng.randint(-3, 3) * 2.0**-23)) + 0
        elif kind < 0.5:
            held = np.float32(0)
        stored.append(int(np.float32(held).view(np.uint32)))
        want.append(int(np.float32(held + p).view(np.uint32)))
    got: list[int] = []

    async def testbench(ctx: Any) -> None:
        length = len(cases)
        for cycle in range(length + SCALE_CYCLES + timing.total):
            at = cycle - SCALE_CYCLES
            if cycle < length:
                ctx.set(unit.ws, cases[cycle][2])
                ctx.set(unit.e, cases[cycle][3] & 63)
            if 0 <= at < length:
                ctx.set(unit.d, cases[at][0])
                ctx.set(unit.m, cases[at][1])
            if 0 <= at - timing.stored < length:
                ctx.set(unit.stored, stored[at - timing.stored])
            if at >= timing.total:
                got.append(ctx.get(unit.s))
            await ctx.tick()

    simulator = Simulator(unit)
    simulator.add_clock(1e-6)
    simulator.add_testbench(testbench)
    simulator.run()
    for case, have, held, wish in zip(cases, got, stored, want, strict=True):
        assert have == wish, f"{case} on {held:08x}: {have:08x}, not {wish:08x}"
    assert 0x80000000 not in got  # a sum never becomes -0


def test_the_form_is_part_of_the_configuration() -> None:
    portable, dsp58 = small(), small(float32="dsp58")
    assert accelerator_hash(portable) != accelerator_hash(dsp58)
    assert scale_add_timing(portable).total == scale_add_timing(dsp58).total + 13
    with pytest.raises(ValueError, match="the conversion takes 3"):
        weight_scale(Module(), dsp58, Const(0, 16), Const(0, 6), 2)


@pytest.mark.filterwarnings("ignore::amaranth.hdl.UnusedElaboratable")
@pytest.mark.parametrize("bits", [23, 30])
def test_a_sum_must_fit_the_fraction(bits: int) -> None:
    with pytest.raises(ValueError, match=f"sum of {bits} bits"):
        DspScaleAdd(bits)
    gc.collect()  # what was refused must not be reported as unused later
