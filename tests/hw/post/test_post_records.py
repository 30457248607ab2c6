# SPDX-License-Identifier: Apache-2.0
"""Records of q, k and v against the golden function."""

import numpy as np
import pytest
from amaranth.hdl import Value
from amaranth.sim import Simulator

from lutvar.contract.formats import get_format
from lutvar.contract.memory import pack_records
from lutvar.hw.post.multiply_add import HALF_AS_FLOAT
from lutvar.hw.post.records import Kind, RecordMaker
from lutvar.quant.golden import pointwise
from lutvar.quant.golden.pointwise import RecordKind


def run_records(fmt, heads: np.ndarray, kinds, kappas: np.ndarray, idle: float) -> list[bytes]:
    """Records of FP16 heads [n, 64], fed back to back or with pauses between heads."""
    rng = np.random.default_rng(7)
    unit = RecordMaker(fmt, near=21)
    found: list[bytes] = []
    begun: list[int] = []
    near: list[int] = []
    patterns = heads.view(np.uint16).reshape(len(heads), 2, 32)
    floats = kappas.astype(np.float32).view(np.uint32) >> 32 - HALF_AS_FLOAT

    async def testbench(ctx) -> None:
        for head, kind, kappa in zip(patterns, kinds, floats, strict=True):
            while rng.random() < idle:
                ctx.set(unit.values, int(rng.integers(1 << 60)))
                await ctx.tick()
            for beat in range(2):
                while rng.random() < idle / 2:
                    await ctx.tick()
                ctx.set(Value.cast(unit.tag), int(kind) | int(kappa) << 2)
                ctx.set(unit.tag_valid, beat == 0)
                ctx.set(unit.values, int.from_bytes(head[beat].tobytes(), "little"))
                ctx.set(unit.valid, 1)
                await ctx.tick()
                ctx.set(unit.valid, 0)
                ctx.set(unit.tag_valid, 0)
        await ctx.tick().repeat(80)

    async def watch(ctx) -> None:
        cycle = 0
        signals = unit.tag_valid, unit.near, unit.done, unit.record
        async for _, _, begin, close, done, record in ctx.tick().sample(*signals):
            if begin:
                begun.append(cycle)
            if close:
                near.append(cycle)
            if done:
                assert cycle == near[len(found)] + unit.near_cycles
                if not idle:
                    assert cycle == begun[len(found)] + unit.LATENCY
                found.append(record.to_bytes(64, "little"))
            cycle += 1

    simulator = Simulator(unit)
    simulator.add_clock(1e-6)
    simulator.add_testbench(testbench)
    simulator.add_testbench(watch, background=True)
    simulator.run()
    return found


def cases(seed: int, count: int) -> np.ndarray:
    """Random heads of all sizes; zero, one-signed and subnormal ones; ties."""
    rng = np.random.default_rng(seed)
    y = rng.normal(size=(count, 64)) * 2.0 ** rng.integers(-14, 12, (count, 1))
    y[0], y[1, :], y[2] = 0, 3.0, -np.abs(y[2])
    y[3] = rng.integers(-900, 900, 64) * 2.0**-24
    y[4], y[4, 9] = 0, -1.5
    y[5] = rng.integers(-24, 25, 64) / 4.0  # every decision point of E2M1 and some of E2M3
    y[6] = rng.integers(-120, 121, 64)
    y[5, 0], y[6, 0] = 6, 120
    y[7], y[7, 63] = 65504, -65504
    y[8], y[8, 5] = 2.0**-24, 2.0**-14
    return y.astype(np.float16)


#: Names of the kinds in the golden model.
NAMES: dict[Kind, RecordKind] = {Kind.Q: "q", Kind.K: "k", Kind.V: "v"}


@pytest.mark.parametrize(("name", "idle"), [("E2M3", 0.0), ("E2M1", 0.4)])
def test_records(name: str, idle: float) -> None:
    fmt = get_format(name)
    heads = cases(1, 160)
    # Rows of a block: two q heads a row, then all V, then all K.
    kinds = [Kind.Q] * 32 + ([Kind.V] * 16 + [Kind.K] * 16) * 4
    heads[64], heads[80] = 0, 0  # V and K of zeros
    rng = np.random.default_rng(2)
    kappas = rng.uniform(0.01, 150, 160).astype(np.float16)
    kappas[:6] = [1, 65504, 6e-8, 100, 0, 2.0**-14]
    kappas[32:] = 1
    found = run_records(fmt, heads, kinds, kappas, idle)
    assert len(found) == len(heads)
    last: list[np.ndarray] = []
    for number, kind in enumerate(kinds):
        y = heads[number].astype(np.float32)
        golden = pointwise.records(y, fmt, NAMES[kind], kappas[number])
        follow = None
        if kind is Kind.V:
            last.append(golden.scales)
        elif kind is Kind.K:
            follow = last.pop(0)
        want = pack_records(golden.codes, golden.scales, fmt, follow)
        assert found[number] == want.tobytes(), f"record {number}, {kind.name}"
