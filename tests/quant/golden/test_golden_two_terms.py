# SPDX-License-Identifier: Apache-2.0
"""Inputs in two terms: codes, scales and sums against the literal contract, how close they come."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest

from lutvar.contract.formats import get_format
from lutvar.contract.formats.ties import TieRule
from lutvar.quant.golden import GoldenLinear, quantize_activations
from support.quant import golden_reference as ref
from support.quant.golden_cases import make_layer, random_groups, special_groups

FORMATS = ("E2M1", "E2M3", "E1M2", "INT4", "INT6")


@pytest.mark.parametrize("ties", TieRule)
@pytest.mark.parametrize("name", FORMATS)
def test_two_terms_equal_the_literal_contract(name: str, ties: TieRule) -> None:
    fmt = get_format(name)
    rows = np.concatenate([random_groups(5, 24), special_groups(fmt.scale_top())])
    got = quantize_activations(rows, fmt, ties, terms=2)
    assert got.codes.shape == (len(rows), 256)
    assert not got.scale_neg.any()
    zero = 0
    for row, patterns in enumerate(rows):
        (codes, m), (rest, m2) = ref.quantize_two_terms(patterns.tolist(), fmt, ties)
        assert got.codes[row].tolist() == codes + rest
        assert got.scale[row].tolist() == [m, m2]
        assert m2 == 0 or m2 >= 0x0400
        zero += m2 == 0 and m != 0
    assert zero >= 4, "groups that term 1 gives exactly, or nearly, or below the normal numbers"


def test_term_one_is_what_one_term_gives_and_groups_are_alone() -> None:
    fmt = get_format("E2M1")
    rows = random_groups(6, 12)
    wide = quantize_activations(rows.reshape(4, 384), fmt, terms=2)
    one = quantize_activations(rows, fmt)
    codes = wide.codes.reshape(12, 2, 128)
    np.testing.assert_array_equal(codes[:, 0], one.codes)
    np.testing.assert_array_equal(wide.scale.reshape(12, 2)[:, :1], one.scale)
    np.testing.assert_array_equal(
        codes.reshape(12, 256), quantize_activations(rows, fmt, terms=2).codes
    )


@pytest.mark.parametrize("name", FORMATS)
def test_two_terms_are_as_close_as_the_contract_says(name: str) -> None:
    fmt = get_format(name)
    top = fmt.scale_top()
    gap = max(b - a for a, b in pairwise(fmt.positive.levels))
    rows = np.concatenate([random_groups(7, 18), special_groups(top)])
    got = quantize_activations(rows, fmt, terms=2)
    for patterns, codes, scales in zip(rows, got.codes, got.scale, strict=True):
        m, m2 = (ref.fp16_value(int(s)) for s in scales)
        if m == 0:
            continue
        first = codes[:128].tolist()
        rest = ref.rest_of_group(patterns.tolist(), first, int(scales[0]), top, fmt)
        largest = max(map(abs, rest))
        assert largest <= gap * 256
        step = m / (512 * top)  # what a unit of `rest` is worth
        if m2:
            bound = step * (1 + Fraction(gap * largest, 2 * top) + Fraction(largest, 2**11))
        else:
            bound = step + max(7 * step, min(largest * step, Fraction(2) ** -14))
        for pattern, a, b in zip(patterns.tolist(), first, codes[128:].tolist(), strict=True):
            value = (ref.grid(a, fmt) * m + ref.grid(b, fmt) * m2) / top
            assert abs(ref.fp16_value(pattern) - value) <= bound


@pytest.mark.parametrize("name", ["E2M1", "E2M3"])
def test_every_value_against_many_maxima(name: str) -> None:
    """All FP16 x up to m: what is left is that of the exact quotient, to less than one unit."""
    fmt = get_format(name)
    top = fmt.scale_top()
    for peak in (0x0400, 0x0401, 0x3C00, 0x3E90, 0x3FFF, 0x7BFF):
        x = np.arange(peak + 1, dtype=np.uint16)[-12001:]
        codes = quantize_activations(
            np.concatenate([x, np.full(-len(x) % 128, peak, np.uint16)]).reshape(1, -1), fmt
        ).codes[0][: len(x)]
        m = int(ref.fp16_value(peak) * 2**24)
        rest = ref.rest_of_group(x.tolist(), codes.tolist(), peak, top, fmt)
        for pattern, code, w in zip(x.tolist(), codes.tolist(), rest, strict=True):
            exact = 512 * top * int(ref.fp16_value(pattern) * 2**24)
            # w / 512 = y - c, with y = x M / m
            assert abs(exact - (512 * abs(ref.grid(code, fmt)) + w) * m) < m


@pytest.mark.parametrize("name", ["E2M1", "E2M3"])
def test_sums_take_both_terms_of_a_group_in_turn(name: str) -> None:
    layer = make_layer(name, name, outputs=3, groups=2, seed=3)
    fmt = get_format(name)
    acts = quantize_activations(random_groups(8, 12).reshape(6, 256), fmt, terms=2)
    y, sums = GoldenLinear(layer).multiply(acts, keep_sums=True)
    assert sums is not None and sums.shape == (6, 3, 4)
    for row in range(6):
        for output in range(3):
            weights = layer.codes[output].reshape(2, 128)
            expected, expected_sums = ref.result(
                acts.codes[row].tolist(),
                [(int(s), 0) for s in acts.scale[row]],
                np.repeat(weights, 2, axis=0).reshape(-1).tolist(),
                np.repeat(layer.scales[output], 2).tolist(),
                float(layer.bias[output]), layer.exponent, fmt, fmt,
            )  # fmt: skip
            assert sums[row, output].tolist() == expected_sums
            assert float(y[row, output]) == float(expected)
    with pytest.raises(ValueError, match="activations have 3 groups; the layer has 2"):
        GoldenLinear(layer).multiply(quantize_activations(random_groups(8, 3).reshape(1, -1), fmt))


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("DUAL4", "DUAL4 is dual"),
        ("E3M2", "levels of E3M2 are up to 64 grid steps apart; .* fewer than 8"),
        ("INT8", "INT8 puts the absolute maximum at grid integer 127; .* at most 63"),
    ],
)
def test_formats_without_two_terms_are_refused(name: str, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        quantize_activations(np.zeros((1, 128), np.uint16), get_format(name), terms=2)
    with pytest.raises(ValueError, match="terms is 3"):
        quantize_activations(np.zeros((1, 128), np.uint16), get_format("E2M1"), terms=3)
