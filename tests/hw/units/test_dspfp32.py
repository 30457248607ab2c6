# SPDX-License-Identifier: Apache-2.0
"""The DSP58 in float32 mode: its model in both simulators against numpy, bit by bit and in time."""

from __future__ import annotations

import gc
import itertools
import random
from typing import Any

import numpy as np
import pytest
from amaranth.sim import Simulator

from lutvar.hw.units.dspfp32 import DspFp32
from lutvar.hw.units.scale_to_fp32 import ScaleToFp32
from support.hw.pipeline import run_pipeline
from support.hw.verilated_unit import UnitSimulator, build_unit

NEGATIVE = 1 << 31
FRACTIONS = (0, 1, 2, 3, 0x3FFFFF, 0x400000, 0x400001, 0x555555, 0x7FFFFD, 0x7FFFFE, 0x7FFFFF)
Pairs = list[tuple[int, int]]


def floats(patterns: np.ndarray | list[int]) -> np.ndarray:
    return np.asarray(patterns, np.uint32).view(np.float32)


def number(rng: random.Random, low: int, high: int) -> int:
    """A float32 pattern with an exponent field from low to high."""
    return rng.getrandbits(1) << 31 | rng.randint(low, high) << 23 | rng.getrandbits(23)


def expected(x: list[int], y: list[int], what: str) -> np.ndarray:
    """Patterns of the results; a zero of the same sign for those that round to less than 2**-126.

    numpy rounds subnormal numbers to fewer bits, some of them up to 2**-126, so small results are
    rounded where there is room. float64 holds products exactly, and sums when they are small.
    """
    a, b = floats(x), floats(y)
    with np.errstate(all="ignore"):
        exact = a.astype(float) + b if what == "sum" else a.astype(float) * b
        raised = (exact * 2.0**100).astype(np.float32).astype(float)
        patterns = (a + b if what == "sum" else a * b).view(np.uint32)
    return np.where(np.abs(raised) < 2.0**-26, patterns & NEGATIVE, patterns)


def finite(pairs: Pairs, what: str) -> Pairs:
    """Without those that overflow, which does not arise."""
    results = expected([x for x, _ in pairs], [y for _, y in pairs], what)
    return [pair for pair, result in zip(pairs, results, strict=True) if result >> 23 & 255 != 255]


def sum_pairs() -> Pairs:
    """Fractions at every distance, ties, cancellations, zeros, carries."""
    pairs: Pairs = []
    for distance, sign in itertools.product(range(31), (0, NEGATIVE)):
        for a, b in itertools.product(FRACTIONS, repeat=2):
            x, y = 130 << 23 | a, sign | (130 - distance) << 23 | b
            pairs.append((x, y) if (a + b + distance) % 2 else (y, x))
    for distance in (40, 100, 180, 253):
        pairs += [(254 << 23 | 5, 254 - distance << 23 | 7), (1 << 23, (1 + distance) << 23 | 9)]
    for low, sign, around in itertools.product((0, 1, 2, 3, 0x7FFFFF), (0, NEGATIVE), (-1, 0, 1)):
        for distance in (1, 2, 3, 23, 24, 25):
            half = (100 - distance << 23) + around
            pairs += [(100 << 23 | low, sign | half), (NEGATIVE | 100 << 23 | low, half)]
    zeros = (0, NEGATIVE)
    pairs += itertools.product(zeros, zeros)
    for value in (127 << 23, 47 << 23, 128 << 23 | 0x600000, 211 << 23, 127 << 23 | 1):
        other = value ^ NEGATIVE
        pairs += [(value, other), (other, value), (value, other + 1), (value, other - 1)]
        pairs += [pair for zero in zeros for pair in ((value, zero), (zero, value))]
    rng = random.Random(2)
    for spread in (1, 4, 30, 100):
        pairs += [
            (number(rng, 127 - spread, 127 + spread), number(rng, 127 - spread, 127 + spread))
            for _ in range(4000)
        ]
    return finite(pairs, "sum")


def product_pairs() -> Pairs:
    """Boundary fractions, ties, results at the smallest exponents, zeros of both signs."""
    pairs: Pairs = []
    for a, b in itertools.product(FRACTIONS, repeat=2):
        for x, y in ((127, 127), (1, 254), (64, 63), (64, 64), (200, 181)):
            pairs.append((x << 23 | a, NEGATIVE * ((a ^ b) & 1) | y << 23 | b))
    rng = random.Random(3)
    for _ in range(4000):  # 12 times 13 significant bits: half of them are ties or exact
        a, b = 1 << 11 | rng.getrandbits(11), 1 << 12 | rng.getrandbits(12) | 1
        pairs.append((127 << 23 | (a << 12) & 0x7FFFFF, 130 << 23 | (b << 11) & 0x7FFFFF))
    values = (0, NEGATIVE, 127 << 23, NEGATIVE | 200 << 23 | 5, 1 << 23)
    pairs += itertools.product(values, values)
    pairs += [(number(rng, 1, 254), number(rng, 1, 254)) for _ in range(9000)]
    return finite(pairs, "product")


@pytest.fixture(scope="module")
def libraries():
    return {
        (from_d, c_regs): build_unit(DspFp32(from_d=from_d, c_regs=c_regs))
        for from_d, c_regs in ((True, 2), (False, 1))
    }


def simulator(unit: DspFp32, libraries) -> Any:
    """Amaranth's, or the exported Verilog where a library is there."""
    library = libraries.get((unit.from_d, unit.c_regs)) if libraries else None
    return UnitSimulator(unit, library) if library else Simulator(unit)


def run(unit: DspFp32, vectors: list[dict[str, int]], libraries=None) -> list[tuple[int, int]]:
    """`m` and `s` in each cycle, before the edge that takes the cycle's inputs."""
    seen: list[tuple[int, int]] = []

    async def testbench(ctx) -> None:
        for vector in [*vectors, *[{}] * 6]:
            for name, value in vector.items():
                ctx.set(getattr(unit, name), value)
            seen.append((ctx.get(unit.m), ctx.get(unit.s)))
            await ctx.tick()

    simulated = simulator(unit, libraries)
    simulated.add_clock(1e-6)
    simulated.add_testbench(testbench)
    simulated.run()
    return seen


def compare(got: list[int], pairs: Pairs, what: str) -> None:
    x, y = ([pair[k] for pair in pairs] for k in (0, 1))
    for a, b, have, want in zip(x, y, got, expected(x, y, what), strict=True):
        assert have == want, f"{what} of {a:08x} and {b:08x}: {have:08x}, not {want:08x}"


@pytest.mark.verilator
@pytest.mark.parametrize("c_regs", [1, 2, 3])
def test_sum_of_c_and_d(libraries, c_regs: int) -> None:
    """Both inputs in the cycles in which they meet at the adder; the product is beside it."""
    pairs = sum_pairs()[:: 1 if (True, c_regs) in libraries else 11]
    lead = c_regs - 1  # c goes ahead of d
    vectors = [{"c": 0, "d": 0} for _ in range(len(pairs) + lead)]
    for cycle, (c, d) in enumerate(pairs):
        vectors[cycle]["c"], vectors[cycle + lead]["d"] = c, d
    seen = run(DspFp32(from_d=True, c_regs=c_regs), vectors, libraries)
    compare([s for _, s in seen[c_regs + 1 :][: len(pairs)]], pairs, "sum")


@pytest.mark.verilator
def test_product(libraries) -> None:
    pairs = product_pairs()
    for chosen in (libraries, None):
        few = pairs if chosen else pairs[::7]
        seen = run(DspFp32(from_d=True, c_regs=2), [{"a": a, "b": b} for a, b in few], chosen)
        latency = DspFp32.PRODUCT_LATENCY
        compare([m for m, _ in seen[latency:][: len(few)]], few, "product")


@pytest.mark.verilator
@pytest.mark.parametrize("exported", [True, False])
def test_product_into_sum(libraries, exported: bool) -> None:
    """Multiply and add with two roundings; c comes two cycles after its factors."""
    rng = random.Random(4)
    count = 20_000 if exported else 1500
    a, b = ([number(rng, 117, 137) for _ in range(count)] for _ in range(2))
    products = expected(a, b, "product")
    # Additions that cancel, or nearly, are among them.
    c = [
        int(p) ^ NEGATIVE ^ rng.choice((0, 0, 1, 1 << rng.randrange(23)))
        if rng.random() < 0.3 else number(rng, 107, 147)
        for p in products
    ]  # fmt: skip
    vectors = [{"a": 0, "b": 0, "c": 0} for _ in range(count + 2)]
    for k in range(count):
        vectors[k]["a"], vectors[k]["b"], vectors[k + 2]["c"] = a[k], b[k], c[k]
    seen = run(DspFp32(from_d=False, c_regs=1), vectors, libraries if exported else None)
    assert [m for m, _ in seen[3:][:count]] == list(products)
    compare([s for _, s in seen[4:][:count]], list(zip(map(int, products), c, strict=True)), "sum")


@pytest.mark.verilator
def test_integers_become_floats(libraries) -> None:
    """The way of the sums: 1.5 * 2**23 is taken away from a fraction that holds the integer."""
    rng = random.Random(5)
    top = 1 << 22
    values = [0, 1, -1, 2, top - 1, -top, *(rng.randrange(-top, top) for _ in range(3000))]
    vectors = [{"c": 0x4B400000 + v, "d": 0xCB400000} for v in values]
    vectors.append(vectors[-1])
    seen = run(DspFp32(from_d=True, c_regs=2), vectors, libraries)
    got = floats([s for _, s in seen[3:][: len(values)]])
    assert list(got) == values
    assert got[0].view(np.uint32) == 0  # +0


@pytest.mark.verilator
def test_flushes_subnormals(libraries) -> None:
    one, smallest, subnormal = 127 << 23, 1 << 23, 5
    pairs = [(subnormal, one), (one, subnormal), (smallest + 1, smallest | NEGATIVE),
             (subnormal, subnormal), (subnormal | NEGATIVE, NEGATIVE)]  # fmt: skip
    vectors = [{"c": c, "d": d, "a": c, "b": d} for c, d in pairs]
    unit = DspFp32(from_d=True, c_regs=1)
    seen = run(unit, vectors)
    assert [s for _, s in seen[2:][:5]] == [one, one, 0, 0, NEGATIVE]
    assert [m for m, _ in seen[3:][:5]] == [0, 0, NEGATIVE, 0, 0]


@pytest.mark.filterwarnings("ignore::amaranth.hdl.UnusedElaboratable")
@pytest.mark.parametrize("c_regs", [0, 4])
def test_refuses_registers(c_regs: int) -> None:
    with pytest.raises(ValueError, match=f"c_regs is {c_regs}"):
        DspFp32(from_d=False, c_regs=c_regs)
    gc.collect()  # what was refused must not be reported as unused later


def test_scale_to_fp32() -> None:
    """Every pattern with some powers of two, subnormal ones with all."""
    rng = random.Random(6)
    cases = [(ws, rng.randint(-32, 31)) for ws in range(0, 1 << 15, 3)]
    cases += [(ws, e) for ws in (0, 1, 2, 3, 0x155, 0x3FF, 0x400, 0x7C00, 0x7FFF)
              for e in range(-32, 32)]  # fmt: skip
    inputs = [{"ws": ws, "e": e} for ws, e in cases]
    results = run_pipeline(ScaleToFp32(), inputs, ("y",), latency=ScaleToFp32.LATENCY)
    for (ws, e), (got,) in zip(cases, results, strict=True):
        significand = (ws & 1023) + 1024 * bool(ws >> 10)
        want = np.float32(significand * 2.0 ** (max(ws >> 10, 1) - 25 + e))
        assert got == want.view(np.uint32), (hex(ws), e)
