# SPDX-License-Identifier: Apache-2.0
"""The float32 units against exact arithmetic: ties, carries, cancellation, all distances."""

import gc
import itertools
import random
from fractions import Fraction

import numpy as np
import pytest
from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from lutvar.hw.units.float_steps import normalise_step
from lutvar.hw.units.fp32_add import Fp32Add
from lutvar.hw.units.scale import MAX_SUM_BITS, MIN_SUM_BITS, ScaleMultiply
from support.hw.pipeline import run_pipeline


def bits(value: float) -> int:
    return int(np.float32(value).view(np.uint32))


def float_of(pattern: int) -> np.float32:
    return np.uint32(pattern).view(np.float32)


def nearest_even(value: Fraction) -> int:
    """float32 pattern of an exact value in the normal range, by integer arithmetic alone."""
    if value == 0:
        return 0
    sign, value = int(value < 0), abs(value)
    exponent = value.numerator.bit_length() - value.denominator.bit_length()
    while value >= Fraction(2) ** (exponent + 1):
        exponent += 1
    while value < Fraction(2) ** exponent:
        exponent -= 1
    significand = round(value / Fraction(2) ** (exponent - 23))  # Fraction rounds ties to even
    assert -126 <= exponent <= 127
    return (sign << 31) + ((exponent + 127) << 23) + significand - (1 << 23)


def fp16(pattern: int) -> Fraction:
    """Value of an extended FP16 pattern without sign."""
    exponent, fraction = pattern >> 10 & 31, pattern & 1023
    significand = fraction + (1024 if exponent else 0)
    return significand * Fraction(2) ** (max(exponent, 1) - 25)


def test_oracle_agrees_with_numpy() -> None:
    rng = random.Random(1)
    for _ in range(2000):
        value = Fraction(rng.getrandbits(60) + 1, 1) * Fraction(2) ** rng.randint(-90, 20)
        assert nearest_even(value) == bits(float(value)) or float(value) != value
    assert nearest_even(Fraction((1 << 24) + 1)) == bits(float(1 << 24))
    assert nearest_even(Fraction((1 << 24) + 3)) == bits(float((1 << 24) + 4))
    assert nearest_even(Fraction(-((1 << 25) - 1))) == bits(-float(1 << 25))


# -- adder ---------------------------------------------------------------------------------


def adder_results(pairs: list[tuple[int, int]]) -> list[int]:
    rows = run_pipeline(
        Fp32Add(), [{"x": x, "y": y} for x, y in pairs], ("s",), latency=Fp32Add.LATENCY
    )
    return [row[0] for row in rows]


def check_adder(pairs: list[tuple[int, int]]) -> None:
    x, y = (np.array(side, np.uint32).view(np.float32) for side in zip(*pairs, strict=True))
    expected = (x + y).view(np.uint32)
    for (a, b), got, want in zip(pairs, adder_results(pairs), expected, strict=True):
        assert got == want, f"{a:08x} + {b:08x}: {got:08x}, not {want:08x}"


FRACTIONS = (0, 1, 2, 3, 0x3FFFFF, 0x400000, 0x400001, 0x555555, 0x7FFFFD, 0x7FFFFE, 0x7FFFFF)


def test_adder_fractions_at_every_distance() -> None:
    """Each pair of boundary fractions, both relative signs, exponents 0..30 apart."""
    pairs = []
    for distance, negative in itertools.product(range(31), (0, 1)):
        for a, b in itertools.product(FRACTIONS, repeat=2):
            x = 130 << 23 | a
            y = negative << 31 | (130 - distance) << 23 | b
            pairs.append((x, y) if (a + b + distance) % 2 else (y, x))
    check_adder(pairs)


def test_adder_ties() -> None:
    """Half a unit of the last place, and its neighbours, onto even and odd significands."""
    pairs = []
    for low, sign, around in itertools.product((0, 1, 2, 3, 0x7FFFFF), (0, 1), (-1, 0, 1)):
        for distance in (1, 2, 3, 23, 24, 25):
            half = bits(2.0 ** (100 - 127 - distance)) + around
            pairs += [(100 << 23 | low, sign << 31 | half), (1 << 31 | 100 << 23 | low, half)]
    check_adder(pairs)


def test_adder_zeros_and_cancellation() -> None:
    one, tiny = bits(1.0), bits(2.0**-80)
    zeros = (0, 1 << 31)
    pairs = [*itertools.product(zeros, zeros)]
    for value in (one, tiny, bits(-3.5), bits(2.0**84), bits(1 + 2**-23)):
        pairs += [(value, value ^ 1 << 31), (value ^ 1 << 31, value)]
        pairs += [pair for zero in zeros for pair in ((value, zero), (zero, value))]
        pairs += [(value, (value ^ 1 << 31) + 1), (value, (value ^ 1 << 31) - 1)]
    check_adder(pairs)
    assert adder_results([(one, one ^ 1 << 31), (1 << 31, 1 << 31)]) == [0, 1 << 31]


def test_adder_flushes_what_cannot_arise() -> None:
    smallest, subnormal = 1 << 23, 1
    pairs = [(subnormal, bits(1.0)), (smallest + 1, smallest | 1 << 31), (subnormal, subnormal)]
    assert adder_results(pairs) == [bits(1.0), 0, 0]


@pytest.mark.parametrize("spread", [2, 30, 160])
def test_adder_random(spread: int) -> None:
    rng = random.Random(spread)

    def number() -> int:
        exponent = 127 + rng.randint(-spread // 2, spread // 2)
        return rng.getrandbits(1) << 31 | exponent << 23 | rng.getrandbits(23)

    check_adder([(number(), number()) for _ in range(7000)])


# -- scale multiply ------------------------------------------------------------------------


def check_scale(sum_bits: int, vectors: list[tuple[int, int, int, int]]) -> None:
    inputs = [{"d": d, "m": m, "ws": ws, "e": e} for d, m, ws, e in vectors]
    unit = ScaleMultiply(sum_bits)
    results = run_pipeline(unit, inputs, ("p",), latency=ScaleMultiply.LATENCY)
    for (d, m, ws, e), (got,) in zip(vectors, results, strict=True):
        want = nearest_even(d * fp16(m) * fp16(ws) * Fraction(2) ** e)
        assert got == want, f"{d} * {m:04x} * {ws:04x} * 2**{e}: {got:08x}, not {want:08x}"


BOUNDARY_SCALES = (
    0x0000,
    0x0001,
    0x0002,
    0x03FF,
    0x0400,
    0x0401,
    0x3C00,
    0x5555,
    0x7BFF,
    0x7C00,
    0x7FFF,
)


@pytest.mark.parametrize("sum_bits", [16, 20])
def test_scale_boundaries(sum_bits: int) -> None:
    top = (1 << sum_bits - 1) - 1
    sums = [0, 1, -1, 2, 3, -3, top, -top, top - 1, top // 2 + 1, -(top // 2)]
    sums += [1 << i for i in range(sum_bits - 1)]
    vectors = [
        (d, m, ws, (-32, 0, 31)[(i + j) % 3])
        for i, m in enumerate(BOUNDARY_SCALES)
        for j, ws in enumerate(BOUNDARY_SCALES)
        for d in sums
    ]
    check_scale(sum_bits, vectors)


def _with_trailing_bits(sum_bits: int, count: int) -> list[tuple[int, int, int, int]]:
    """Products with more than 24 bits that end in 1000.. (a tie) or one off it, after 24 bits."""
    rng = random.Random(3)
    found: list[tuple[int, int, int, int]] = []
    while len(found) < count:
        d, m = rng.randrange(1, 1 << sum_bits - 1), 0x4000 | rng.getrandbits(10)
        ws = 0x4000 | rng.getrandbits(10)
        product = d * (1024 + (m & 1023)) * (1024 + (ws & 1023))
        extra = product.bit_length() - 24
        if extra > 0 and product & ((1 << extra) - 1) == 1 << extra - 1:
            found.append((d * rng.choice((1, -1)), m, ws, rng.randint(-32, 31)))
    return found


@pytest.mark.parametrize("sum_bits", [16, 20])
def test_scale_ties(sum_bits: int) -> None:
    ties = _with_trailing_bits(sum_bits, 60)
    beside = [(d, m, ws ^ 1, e) for d, m, ws, e in ties]
    # Significands of ones: the rounding carries into the exponent.
    top = (1 << sum_bits - 1) - 1
    carries = [(d, 0x43FF, ws, 0) for d in (top, top - 1, -top) for ws in (0x43FF, 0x43FE, 0x4000)]
    check_scale(sum_bits, ties + beside + carries)


@pytest.mark.parametrize("sum_bits", [MIN_SUM_BITS, 16, 20, MAX_SUM_BITS])
def test_scale_random(sum_bits: int) -> None:
    rng = random.Random(sum_bits)
    top = (1 << sum_bits - 1) - 1
    vectors = [
        (
            rng.randint(-top, top) >> rng.randrange(sum_bits),
            rng.getrandbits(15),
            rng.getrandbits(15) >> rng.choice((0, 0, 0, 6, 10)),
            rng.randint(-32, 31),
        )
        for _ in range(5200)
    ]
    check_scale(sum_bits, vectors)


@pytest.mark.filterwarnings("ignore::amaranth.hdl.UnusedElaboratable")
@pytest.mark.parametrize("sum_bits", [MIN_SUM_BITS - 1, MAX_SUM_BITS + 1])
def test_scale_refuses_widths(sum_bits: int) -> None:
    with pytest.raises(ValueError, match=f"sum of {sum_bits} bits"):
        ScaleMultiply(sum_bits)
    gc.collect()  # what was refused must not be reported as unused later


class _Step(wiring.Component):
    """`normalise_step` on a value that is registered once."""

    v: Signal
    shifted: Signal
    count: Signal

    def __init__(self, width: int, unit: int, ways: int) -> None:
        self.unit, self.ways = unit, ways
        super().__init__({"v": In(width), "shifted": Out(width), "count": Out(range(ways))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        shifted, count = normalise_step(m, self.v, self.unit, self.ways, "step")
        m.d.sync += [self.shifted.eq(shifted), self.count.eq(count)]
        return m


@pytest.mark.parametrize(("width", "unit", "ways"), [(28, 8, 4), (38, 16, 4), (9, 2, 4), (5, 1, 2)])
def test_normalise_step(width: int, unit: int, ways: int) -> None:
    values = [0, *(1 << i for i in range(width)), (1 << width) - 1]
    results = run_pipeline(
        _Step(width, unit, ways), [{"v": v} for v in values], ("shifted", "count"), latency=1
    )
    for value, (shifted, count) in zip(values, results, strict=True):
        zeros = width - value.bit_length() if value else unit * ways
        assert count == min(zeros // unit, ways - 1)
        assert shifted == value << count * unit & (1 << width) - 1
