# SPDX-License-Identifier: Apache-2.0
"""The DSP58 in float32 mode against what AMD publishes, by exact integers and nothing else.

The rules are those of AM004 (v1.2.1, 2022-09-11): "DSPFP32 Unisim Primitive": M = A x B and
P = P0 + P1, both rounded to nearest even; "Subnormals": an operand counts as zero with its sign, a
result is flushed to zero with the sign of the adder's mantissa or the XOR of the factors' signs.
Overflow, infinities and NaNs do not arise in the accelerator and are not modelled. The manual does
not say whether a product that only rounding lifts to 2**-126 is flushed: those are left out.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator

import pytest

from lutvar.hw.units.dspfp32 import DspFp32
from support.hw.verilated_unit import UnitSimulator, build_unit

Pair = tuple[int, int]
#: Values are integers in units of 2**-300: no pattern and no product of two needs less.
UNIT = 300
SMALLEST = 1 << UNIT - 126
COUNT = 20_000  #: random pairs of each kind
FRACTIONS = (0, 1, 0x3FFFFF, 0x400000, 0x400001, 0x7FFFFF)


def value(pattern: int) -> int:
    """A pattern as an integer; subnormal operands are zero."""
    exponent = pattern >> 23 & 255
    if not exponent:
        return 0
    significand = 1 << 23 | pattern & 0x7FFFFF
    return (-1 if pattern >> 31 else 1) * (significand << exponent - 150 + UNIT)


def rounded(exact: int, unit: int, zero_sign: int) -> int | None:
    """The pattern of `exact * 2**-unit`; None for what is not specified or not modelled."""
    if not exact:
        return zero_sign << 31
    sign, magnitude = int(exact < 0) << 31, abs(exact)
    exponent = magnitude.bit_length() - 1  # of the leading bit
    drop = exponent - 23
    if drop > 0:
        half, rest = 1 << drop - 1, magnitude & (1 << drop) - 1
        magnitude >>= drop
        magnitude += rest > half or (rest == half and magnitude & 1)
    else:
        magnitude <<= -drop
    tiny = exponent - unit < -126
    if magnitude >> 24:
        magnitude, exponent = magnitude >> 1, exponent + 1
    if exponent - unit < -126:
        return sign
    if tiny or exponent - unit > 127:
        return None
    return sign | exponent - unit + 127 << 23 | magnitude & 0x7FFFFF


def product(x: int, y: int) -> int | None:
    return rounded(value(x) * value(y), 2 * UNIT, (x ^ y) >> 31)


def total(x: int, y: int) -> int | None:
    return rounded(value(x) + value(y), UNIT, (x & y) >> 31)


def pattern(rng: random.Random, low: int, high: int) -> int:
    return rng.getrandbits(1) << 31 | rng.randint(low, high) << 23 | rng.getrandbits(23)


def pairs() -> Iterator[Pair]:
    """Zeros, subnormals, boundaries and ties; then random ones at all, near and small exponents."""
    special = [s << 31 | e << 23 | f for s in (0, 1) for e in (0, 1, 2, 63, 126, 127, 128, 254)
               for f in FRACTIONS]  # fmt: skip
    yield from itertools.product(special, repeat=2)
    rng = random.Random(7)
    for _ in range(COUNT):
        yield pattern(rng, 0, 254), pattern(rng, 0, 254)
        x = pattern(rng, 30, 224)
        yield x, x ^ 1 << 31 ^ rng.getrandbits(rng.randrange(24))  # nearly cancels
        near = min(254, max(0, (x >> 23 & 255) + rng.randint(-26, 26)))
        yield x, pattern(rng, near, near)
        other = 127 - (x >> 23 & 255)
        yield x, pattern(rng, max(0, other - 2), max(0, other + 2))  # product near 2**-126
        yield pattern(rng, 0, 4), pattern(rng, 0, 4)


@pytest.mark.verilator
def test_products_and_sums_as_published() -> None:
    unit = DspFp32(from_d=True, c_regs=2)
    cases = list(pairs())
    seen: list[Pair] = []

    async def testbench(ctx) -> None:
        inputs = [(a, b, a, b) for a, b in cases] + [(0, 0, 0, 0)] * 4
        late = 0  # d comes a cycle after c
        for a, b, c, d in inputs:
            for name, word in (("a", a), ("b", b), ("c", c), ("d", late)):
                ctx.set(getattr(unit, name), word)
            late = d
            seen.append((ctx.get(unit.m), ctx.get(unit.s)))
            await ctx.tick()

    simulator = UnitSimulator(unit, build_unit(unit))
    simulator.add_clock(1e-6)
    simulator.add_testbench(testbench)
    simulator.run()
    checked = [0, 0]
    for number, (x, y) in enumerate(cases):
        for kind, (want, got) in enumerate(
            ((product(x, y), seen[number + 3][0]), (total(x, y), seen[number + 3][1]))
        ):
            if want is not None:
                checked[kind] += 1
                assert got == want, f"{('product', 'sum')[kind]} of {x:08x} and {y:08x}"
    assert min(checked) > 3 * COUNT, checked


def test_the_oracle() -> None:
    one, top, least = 127 << 23, 0x7F7FFFFF, 1 << 23
    assert product(one, one) == one and total(one, one) == 128 << 23
    assert product(top, top) is None and total(top, top) is None
    assert product(least, 126 << 23) == 0 and product(least | 1 << 31, 126 << 23) == 1 << 31
    assert total(least + 1, least | 1 << 31) == 0 and total(least, (least + 1) | 1 << 31) == 1 << 31
    assert total(1 << 31, 1 << 31) == 1 << 31 and total(0, 1 << 31) == 0
    assert total(one, one | 1 << 31) == 0 and total(5, one) == one
    assert total(one, 103 << 23) == one and total(one + 1, 103 << 23) == one + 2  # ties
    assert product(least, one - 1) == 0 and product(least + 1, one - 1) == least
    assert product(least + 1, one - 2) is None  # only rounding lifts it to 2**-126
