# SPDX-License-Identifier: Apache-2.0
"""The arithmetic contract once more, with Python integers and fractions only: slow and literal.

Nothing of the product's codecs or golden model is used, only the lists of levels in the format
objects. Values are fractions, FP16 numbers are patterns.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from lutvar.contract.formats import NumberFormat

ZERO = Fraction(0)


def fp16_value(pattern: int) -> Fraction:
    """Value of an FP16 pattern, exponent field 31 included (contract, section 1)."""
    exponent, fraction = pattern >> 10 & 31, pattern & 1023
    magnitude = Fraction(fraction if exponent == 0 else 1024 + fraction)
    magnitude *= Fraction(2) ** (max(exponent, 1) - 25)
    return -magnitude if pattern & 0x8000 else magnitude


def round_to(value: Fraction, precision: int, lowest: int) -> Fraction:
    """Nearest number of `precision` bits, ties to even; exponents below `lowest` are subnormal."""
    if value == 0:
        return ZERO
    exponent = lowest
    while abs(value) >= Fraction(2) ** (exponent + 1):
        exponent += 1
    step = Fraction(2) ** (exponent - precision + 1)
    return round(value / step) * step  # Python rounds fractions half to even


def round_fp16(value: Fraction) -> int:
    """Extended FP16 pattern of the nearest value; the sign of zero is the value's."""
    sign = 0x8000 if value < 0 else 0
    steps = abs(round_to(value, 11, -14)) / Fraction(2) ** -24
    # Patterns count upward through the values: walk up the exponents.
    exponent = 0
    while steps >= 2048:
        steps /= 2
        exponent += 1
    assert steps.denominator == 1 and exponent < 31
    return sign | (exponent << 10) + int(steps)


def round_fp32(value: Fraction) -> Fraction:
    return round_to(value, 24, -126)


def fp16_steps(pattern: int) -> int:
    """Value of an FP16 pattern in steps of 2**-24: an integer."""
    return int(fp16_value(pattern) * 2**24)


def hadamard(patterns: Sequence[int], signs: Sequence[int]) -> list[int]:
    """Section 3, for one group."""
    steps = [sign * fp16_steps(p) for sign, p in zip(signs, patterns, strict=True)]
    result = []
    for i in range(128):
        total = sum(-v if (i & j).bit_count() % 2 else v for j, v in enumerate(steps))
        result.append(round_fp16(Fraction(total, 128 * 2**24)))
    return result


def quantize_group(
    patterns: Sequence[int], fmt: NumberFormat, ties: str
) -> tuple[list[int], int, int]:
    """Section 4, for one group: codes, scale pattern, negative scale pattern."""
    values = [fp16_steps(p) for p in patterns]
    peaks = {}
    for negative in (False, True):
        side = [abs(v) for v in values if not fmt.dual or (v < 0) == negative]
        peak = max(side, default=0)
        peaks[negative] = peak if peak >= 2 ** (24 - 14) else 0
    codes = [_code(v, peaks[v < 0], fmt, ties) for v in values]
    scale = Fraction(peaks[False], 2**24)
    scale_neg = Fraction(peaks[True] * fmt.positive.top, 2**24 * fmt.negative.top)
    return codes, round_fp16(scale), round_fp16(scale_neg) if fmt.dual else 0


def _code(x: int, m: int, fmt: NumberFormat, ties: str) -> int:
    if m == 0:
        return 0
    negative = x < 0
    half = fmt.negative if negative else fmt.positive
    top = fmt.negative.top if fmt.dual and negative else fmt.positive.top
    levels = half.levels
    rank = 0
    for k in range(len(levels) - 1):
        # 2 M |x| against 2 t m, with 2 t the sum of the neighbours.
        left, right = 2 * top * abs(x), (levels[k] + levels[k + 1]) * m
        outward = {"even": k % 2 == 1, "up": not negative, "down": negative}[ties]
        if left > right or (left == right and outward):
            rank = k + 1
    if rank == 0:
        return 0
    return (1 << (fmt.bits - 1) if negative else 0) | half.magnitudes.index(levels[rank])


def grid(code: int, fmt: NumberFormat) -> int:
    """Signed grid integer of a code."""
    sign = 1 << (fmt.bits - 1)
    if code & sign:
        return -fmt.negative.magnitudes[code ^ sign]
    return fmt.positive.magnitudes[code]


def result(
    codes: Sequence[int],
    scales: Sequence[tuple[int, int]],
    weight_codes: Sequence[int],
    weight_scales: Sequence[int],
    bias: float,
    exponent: int,
    activation: NumberFormat,
    weight: NumberFormat,
) -> tuple[Fraction, list[int]]:
    """Section 5, for one row and output: y, and the group sums in their order."""
    acc, sums = Fraction(bias), []
    for g, (m, m_neg) in enumerate(scales):
        span = range(128 * g, 128 * (g + 1))
        terms = [grid(codes[j], activation) * grid(weight_codes[j], weight) for j in span]
        if activation.dual:
            sign = 1 << (activation.bits - 1)
            below = sum(t for j, t in zip(span, terms, strict=True) if codes[j] & sign)
            above = sum(t for j, t in zip(span, terms, strict=True) if not codes[j] & sign)
            passes = [(below, m_neg), (above, m)]
        else:
            passes = [(sum(terms), m)]
        for total, scale in passes:
            sums.append(total)
            constant = fp16_value(scale) * fp16_value(weight_scales[g]) * Fraction(2) ** exponent
            acc = round_fp32(acc + round_fp32(total * constant))
    return acc, sums


def rest_of_group(
    patterns: Sequence[int], codes: Sequence[int], m: int, top: int, fmt: NumberFormat
) -> list[int]:
    """Section 4, what term 1 leaves: w_j of each value, m the pattern of the maximum."""
    rest = []
    s_m = (m & 1023) + 1024
    for pattern, code in zip(patterns, codes, strict=True):
        if m == 0:
            rest.append(0)
            continue
        field = pattern >> 10 & 31
        s_x = pattern & 1023 | (1024 if field else 0)
        d = (m >> 10) - max(field, 1)
        product = s_x * -(-(2 * top * 2**22) // s_m)
        w = product // 2 ** (14 + d) - 512 * abs(grid(code, fmt))
        rest.append(-w if pattern & 0x8000 else w)
    return rest


def quantize_two_terms(
    patterns: Sequence[int], fmt: NumberFormat, ties: str
) -> tuple[tuple[list[int], int], tuple[list[int], int]]:
    """Section 4 in two terms, for one group: codes and scale pattern of each."""
    codes, m, _ = quantize_group(patterns, fmt, ties)
    top = fmt.positive.top
    rest = rest_of_group(patterns, codes, m, top, fmt)
    largest = max(abs(w) for w in rest)
    exact = largest * fp16_value(m) / (512 * top)
    if largest < 8 or exact < Fraction(2) ** -14:
        return (codes, m), ([0] * len(codes), 0)
    second = [_code(w, largest, fmt, ties) for w in rest]
    return (codes, m), (second, round_fp16(exact))
