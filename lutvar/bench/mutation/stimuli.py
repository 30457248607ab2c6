# SPDX-License-Identifier: Apache-2.0
"""Inputs of arithmetic units that find rounding faults, and what numpy and integers say to them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from lutvar.contract.formats import get_format
from lutvar.contract.functions import GELU_ONE, RSQRT_ONE, gelu_factor, rsqrt

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]
COUNT = 6000  #: sets of inputs of each unit
PART = 32  #: codes of a record that come in a cycle


def floats(rng: np.random.Generator, low: int = -30, high: int = 31, bits: int = 24) -> Floats:
    """float32 values of every kind: short significands, so that products tie, ends, zeros."""
    significand = rng.integers(1 << bits - 1, 1 << bits, COUNT)
    cut = rng.integers(0, bits, COUNT) * rng.integers(0, 2, COUNT)
    significand = (significand >> cut << cut) | 1 << bits - 1
    significand |= rng.integers(0, 4, COUNT) == 0  # short but for the last bit: just beside ties
    ends = rng.integers(0, 40, COUNT)
    significand = np.where(ends == 0, (1 << bits) - 1, significand)
    significand = np.where(ends == 1, 1 << bits - 1, significand)
    exponent = rng.integers(low, high, COUNT)
    values = significand * np.exp2(exponent - (bits - 1.0)) * rng.choice([-1.0, 1.0], COUNT)
    values[rng.random(COUNT) < 0.02] *= 0.0
    return values.astype(np.float32)


def halves(rng: np.random.Generator, sign: bool = True) -> Ints:
    """FP16 patterns of all exponents, one in four subnormal."""
    patterns = rng.integers(0, 1 << 15 + sign, COUNT)
    small = rng.random(COUNT) < 0.25
    return np.where(small, patterns & 0x83FF >> rng.integers(0, 10, COUNT), patterns)


def half_units(patterns: Ints) -> Ints:
    """Magnitude of FP16 patterns in units of 2**-24; exponent field 31 is an ordinary one."""
    fields, fraction = patterns >> 10 & 31, patterns & 1023
    return np.where(fields > 0, (fraction + 1024) << np.maximum(fields - 1, 0), fraction)


def half_values(patterns: Ints) -> Floats:
    """The same as float32, with a sign."""
    signs = np.where(patterns >> 15 & 1, np.float32(-1), np.float32(1))
    return (half_units(patterns).astype(np.float32) * np.float32(2.0**-24)) * signs


def pattern(values: Floats) -> Ints:
    """float32 patterns."""
    return values.astype(np.float32).view(np.uint32).astype(np.int64)


def half_pattern(values: NDArray[np.float64]) -> Ints:
    """FP16 patterns, rounded once and saturated."""
    clipped = np.clip(values, -65504.0, 65504.0)
    result = clipped.astype(np.float16).view(np.uint16).astype(np.int64)
    return result | np.signbit(values).astype(np.int64) << 15


@dataclass(frozen=True)
class UnitCase:
    """Inputs of a unit that takes one set in each cycle, and its outputs.

    Attributes:
        latency: cycles from inputs to output.
        inputs: by port, in units of patterns. Synthesis cuts ports whose bits are known and gives
            the rest a number for a name: "31 bits" is the only input of so many bits.
        output: port, by a name of the same kind, and its value for each set.
        lag: by port, cycles by which it comes after the others.
    """

    latency: int
    inputs: Mapping[str, Ints]
    output: tuple[str, Ints]
    lag: Mapping[str, int] = field(default_factory=dict)


def _product(bits: int) -> Callable[[np.random.Generator], UnitCase]:
    def make(rng: np.random.Generator) -> UnitCase:
        x, y = floats(rng), floats(rng, bits=bits)
        return UnitCase(5, {"x": pattern(x), "y": pattern(y)}, ("s", pattern(x * y)))

    return make


def _records_product(rng: np.random.Generator) -> UnitCase:
    """Truncated, the last bit set when anything was lost; 11 bits of y, whose 13 lowest are cut."""
    x, y = floats(rng), floats(rng, bits=11)
    return UnitCase(5, {"x": pattern(x), "19 bits": pattern(y) >> 13}, _odd(x, y).output)


def _gate_product(rng: np.random.Generator) -> UnitCase:
    return _odd(floats(rng), np.abs(floats(rng, -16, 1, 17)))


def _odd(x: Floats, y: Floats) -> UnitCase:
    result = _to_odd(x.astype(np.float64) * y.astype(np.float64))
    return UnitCase(5, {"x": pattern(x), "y": pattern(y)}, ("s", result))


def _to_odd(exact: NDArray[np.float64]) -> Ints:
    """float32 patterns: cut off, the last bit set if anything was lost."""
    near = pattern(exact.astype(np.float32))
    back = near.astype(np.uint32).view(np.float32).astype(np.float64)
    result = np.where(np.abs(back) > np.abs(exact), near - 1, near)
    return result | (back != exact).astype(np.int64)


def _sum(rng: np.random.Generator) -> UnitCase:
    x = floats(rng)
    y = _near_to(rng, x)
    return UnitCase(9, {"x": pattern(x), "y": pattern(y)}, ("s", pattern(x + y)))


def _near_to(rng: np.random.Generator, x: Floats) -> Floats:
    """Summands that overlap with others, cancel some, and some that do neither."""
    y = floats(rng, -30, 31)
    style = rng.random(COUNT)
    size = np.exp2(np.frexp(x)[1].astype(float))
    y = np.where(style < 0.6, floats(rng, -27, 27) * size, y)
    y = np.where(style < 0.2, floats(rng, -2, 3) * size, y)
    return np.where(style < 0.05, -x, y).astype(np.float32)


def _difference(rng: np.random.Generator) -> UnitCase:
    """A value that was FP16 and a summand, inverted outside but for its sign."""
    x = half_values(halves(rng)) + np.float32(0)
    y = _near_to(rng, x)
    inputs = {"19 bits": pattern(x) >> 13, "31 bits": pattern(y) & 0x7FFFFFFF,
              "1 bits": pattern(y) >> 31}  # fmt: skip
    return UnitCase(9, inputs, ("total", pattern(x + y)))


def _half_sum(rng: np.random.Generator) -> UnitCase:
    y = half_values(halves(rng)) + np.float32(0)
    x = _near_to(rng, y)
    return UnitCase(9, {"x": pattern(x), "19 bits": pattern(y) >> 13}, ("total", pattern(x + y)))


def _half_product(rng: np.random.Generator) -> UnitCase:
    x, y = floats(rng), floats(rng, -14, 16, 11)
    return UnitCase(5, {"x": pattern(x), "19 bits": pattern(y) >> 13}, ("s", pattern(x * y)))


def _to_half(rng: np.random.Generator) -> UnitCase:
    x = floats(rng, -28, 20)
    ties = floats(rng, -28, 17, 12)
    x = np.where(rng.random(COUNT) < 0.4, ties, x)
    return UnitCase(3, {"x": pattern(x)}, ("y", half_pattern(x.astype(np.float64))))


def _from_half(rng: np.random.Generator) -> UnitCase:
    x = halves(rng)
    return UnitCase(2, {"x": x}, ("y", pattern(half_values(x)) | (x >> 15) << 31))


def _high_from_half(rng: np.random.Generator) -> UnitCase:
    case = _from_half(rng)
    return UnitCase(2, case.inputs, ("result", case.output[1] >> 13))


def _to_fixed(rng: np.random.Generator) -> UnitCase:
    x, flip = halves(rng), rng.integers(0, 2, COUNT)
    negative = (x >> 15) ^ flip
    value = np.where(negative, -half_units(x), half_units(x)) & (1 << 42) - 1
    return UnitCase(3, {"x": x, "flip": flip}, ("y", value))


def _from_sum(rng: np.random.Generator) -> UnitCase:
    bits = rng.integers(1, 48, COUNT)
    value = rng.integers(0, 1 << 47, COUNT) >> 47 - bits
    cut = rng.integers(0, 48, COUNT) * rng.integers(0, 2, COUNT)
    value = np.minimum(value >> cut << cut, 2047 << 37)
    value = np.where(rng.integers(0, 2, COUNT), -value, value)
    expected = half_pattern(value * 2.0**-31)
    return UnitCase(4, {"x": value & (1 << 49) - 1}, ("y", expected))


def _normalise(rng: np.random.Generator) -> UnitCase:
    x, scale, shift = (halves(rng) & 0xFBFF for _ in range(3))
    mean = floats(rng, -12, 8)
    root = np.abs(floats(rng, -8, 8, 18))
    with np.errstate(over="ignore"):
        z = (half_values(x) - mean) * root * half_values(scale) + half_values(shift)
    inputs = {"x": x, "mean": pattern(mean), "root": pattern(root), "scale": scale, "shift": shift}
    lag = {"mean": 2, "root": 11, "scale": 14, "shift": 19}
    return UnitCase(33, inputs, ("z", half_pattern(z.astype(np.float64))), lag)


def _store_or_add(rng: np.random.Generator) -> UnitCase:
    x, y, g = floats(rng, -12, 12), floats(rng, -12, 12), half_values(halves(rng) & 0xFBFF)
    product = y * g
    total = x + np.where(product == 0, np.float32(0), product)
    inputs = {"x": pattern(x), "y": pattern(y), "g": pattern(g) >> 13}
    return UnitCase(14, inputs, ("s", pattern(total)), {"x": 5})


def _gelu(rng: np.random.Generator) -> UnitCase:
    y = floats(rng, -14, 5)
    exact = y.astype(np.float64) * gelu_factor(y) * 2.0**-GELU_ONE
    return UnitCase(16, {"y": pattern(y)}, ("t", _to_odd(exact)))


def _half(rng: np.random.Generator) -> UnitCase:
    y, scaled = floats(rng, -28, 20), floats(rng, -28, 20)
    direct = rng.integers(0, 2, COUNT)
    found = half_pattern(np.where(direct, y, scaled).astype(np.float64) + 0.0)
    inputs = {"y": pattern(y), "scaled": pattern(scaled), "direct": direct}
    return UnitCase(4, inputs, ("half", found))


def _gate(rng: np.random.Generator) -> UnitCase:
    x = floats(rng, -14, 5)
    y = (gelu_factor(x) * 2.0**-GELU_ONE).astype(np.float32)
    return UnitCase(11, {"x": pattern(x)}, ("y", pattern(y)))


def _root(port: str) -> Callable[[np.random.Generator], UnitCase]:
    def make(rng: np.random.Generator) -> UnitCase:
        x = np.abs(floats(rng, -40, 40))
        x = np.where(x == 0, np.float32(1), x)
        top, k = rsqrt(x)
        y = (top * np.exp2(-float(RSQRT_ONE) - k)).astype(np.float32)
        return UnitCase(5, {port: pattern(x)}, ("y", pattern(y)))

    return make


def _squares(rng: np.random.Generator) -> UnitCase:
    """Sums of the squares of 32 codes of a record (E2M3), and of those of the beat before with it.

    Some beats hold large codes only, so that the sum has all its bits.
    """
    codes = rng.integers(0, 64, (COUNT, PART))
    large = rng.random(COUNT) < 0.5
    codes[large] |= 0b11100
    squares = np.array([m**2 for m in get_format("E2M3").positive.magnitudes])
    sums = squares[codes & 31].sum(1)
    sums[1::2] += sums[::2].copy()
    words = [sum(int(code) << 6 * k for k, code in enumerate(row)) for row in codes]
    inputs = {"codes": np.array(words, object), "1 bits": np.ones(COUNT, np.int64)}
    return UnitCase(10, inputs, ("31 bits", pattern(sums.astype(np.float32))))


def _scale(rng: np.random.Generator) -> UnitCase:
    d: Ints = rng.integers(-(1 << 15) + 1, 1 << 15, COUNT) >> rng.integers(0, 15, COUNT)
    m, ws, e = halves(rng, False), halves(rng, False), rng.integers(-32, 32, COUNT)
    # Products that end with 1 0000 0000 00xx: what decides a tie is in the lowest bits.
    for at in range(0, COUNT, 4):
        m[at], ws[at] = rng.integers(1, 31, 2) << 10 | rng.integers(1 << 9, 1 << 10, 2) | 1
        factor = (int(m[at]) & 1023 | 1024) * (int(ws[at]) & 1023 | 1024)
        end = 1 << 12 | int(rng.integers(0, 4))
        d[at] = end * pow(factor, -1, 1 << 13) % (1 << 13) | int(rng.integers(4)) << 13
    exact = [int(a) * int(b) * int(c) for a, b, c in zip(d, half_units(m), half_units(ws),
                                                         strict=True)]  # fmt: skip
    rounded = np.array([_near(n) for n in exact])  # 24 bits: exact in float64
    p = (rounded * np.exp2(e - 48.0)).astype(np.float32)
    return UnitCase(
        10, {"d": d & 0xFFFF, "m": m, "ws": ws, "e": e & 63}, ("p", pattern(p) * (p != 0))
    )


def _near(value: int) -> float:
    """An integer rounded to 24 significant bits, ties to even."""
    extra = max(0, abs(value).bit_length() - 24)
    kept, rest = abs(value) >> extra, abs(value) & (1 << extra) - 1
    half = 1 << extra >> 1
    kept += bool(extra) and (rest > half or (rest == half and kept & 1 == 1))
    return float(kept << extra) * (-1 if value < 0 else 1)


_BEAT_BITS, _WINDOWS = 58, 4


def _window(rng: np.random.Generator) -> UnitCase:
    """Transfers at the edges of windows anywhere in 64 bits, and far from them."""
    windows, transfers, inside = [], [], []
    top = (1 << _BEAT_BITS) - 1

    def any_address() -> int:
        return int(rng.integers(1 << 62)) >> 62 - _BEAT_BITS + int(rng.integers(0, 40)) & top

    for _ in range(COUNT):
        beats = int(rng.integers(1 << int(rng.integers(1, 21))))
        pairs = [sorted((any_address(), any_address())) for _ in range(_WINDOWS)]
        if not rng.integers(8):
            pairs = [pair[::-1] for pair in pairs]  # empty
        edge = pairs[int(rng.integers(_WINDOWS))]
        near = (edge[0], edge[1] - beats, edge[1], any_address())[int(rng.integers(4))]
        at = max(0, min(top, near + int(rng.integers(-1, 2))))
        windows.append(sum((a | b << _BEAT_BITS) << 2 * _BEAT_BITS * i
                           for i, (a, b) in enumerate(pairs)))  # fmt: skip
        transfers.append(at << 6 | int(rng.integers(64)) | beats << 64)
        inside.append(int(any(a <= at and at + beats <= b for a, b in pairs)))
    inputs = {"windows": np.array(windows, object), "transfer": np.array(transfers, object),
              "load": np.ones(COUNT, np.int64)}  # fmt: skip
    return UnitCase(1, inputs, ("inside", np.array(inside)))


#: Unit's module without the configuration's prefix, or the end of its name -> its case.
CASES: Mapping[str, Callable[[np.random.Generator], UnitCase]] = {
    "fp32_multiply_24": _product(24), "fp32_multiply_11": _product(11),
    "unit_post__lanes__records__product": _records_product, "fp32_add": _sum, "rows_adder": _sum,
    "fp32_to_fp16": _to_half, "unit_post__lanes__records__convert": _to_half,
    "fp16_to_fp32": _from_half, "post_from_half": _from_half,
    "fp16_to_fixed": _to_fixed, "fp16_from_sum": _from_sum, "front_lane": _normalise,
    "post_multiply_add": _store_or_add, "post_gelu_lane": _gelu, "post_half_lane": _half,
    "rows_scale": _scale,
    "unit_front__statistics__rsqrt": _root("x"),
    "unit_post__lanes__records__root": _root("31 bits"),
    "unit_post__lanes__records__squares": _squares,
    "front_lane__x_in": _high_from_half, "front_lane__scale_in": _high_from_half,
    "front_lane__shift_in": _high_from_half, "front_lane__centre": _difference,
    "front_lane__divide": _product(19), "front_lane__multiply": _half_product,
    "front_lane__add": _half_sum, "front_lane__z_out": _to_half,
    "post_gelu_lane__gate": _gate, "post_gelu_lane__product": _gate_product,
    "post_half_lane__convert": _to_half, "split__check": _window,
}  # fmt: skip
