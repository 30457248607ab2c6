# SPDX-License-Identifier: Apache-2.0
"""Golden activations against the literal contract and against exhaustive integer comparisons."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch

from lutvar.contract.formats import get_format
from lutvar.contract.formats.ties import TieRule
from lutvar.contract.hadamard import sign_vector
from lutvar.quant.golden import hadamard_fp16, quantize_activations, to_fp16
from lutvar.quant.golden.fp16 import patterns_of, values_of
from support.quant import golden_reference as ref
from support.quant.golden_cases import random_groups

FORMATS = ("E2M1", "E2M3", "DUAL4", "DUAL6", "E1M2", "E3M2", "INT4", "INT6")
SIGNS = sign_vector(42)


def test_fp16_values_of_every_pattern() -> None:
    patterns = np.arange(65536, dtype=np.uint16)
    values = values_of(patterns)
    some = [*range(0, 65536, 97), 0x7BFF, 0x7C00, 0x7FFF, 0x8000, 0xFBFF, 0xFC00, 0xFFFF]
    for pattern in some:
        assert values[pattern].item() == float(ref.fp16_value(pattern))
    finite = (patterns & 0x7FFF) < 0x7C00
    np.testing.assert_array_equal(
        values.numpy()[finite], patterns.view(np.float16).astype(np.float32)[finite]
    )
    np.testing.assert_array_equal(patterns_of(values), patterns)


def test_patterns_of_refuses_what_is_beyond_the_extended_range() -> None:
    assert patterns_of(torch.tensor([131008.0, -131008.0])).tolist() == [0x7FFF, 0xFFFF]
    for value in (131072.0, -131072.0):
        with pytest.raises(ValueError, match=r"131072\.0 is beyond 131008"):
            patterns_of(torch.tensor([0.0, value]))


def test_to_fp16_rounds_to_even_and_saturates() -> None:
    halves = np.arange(0x7BFF, dtype=np.uint16)
    low = halves.view(np.float16).astype(np.float32)
    high = (halves + 1).astype(np.uint16).view(np.float16).astype(np.float32)
    middle = (low.astype(np.float64) + high).astype(np.float32) / 2  # exact in float32
    up = halves + (halves & 1)
    np.testing.assert_array_equal(to_fp16(middle), up)
    np.testing.assert_array_equal(to_fp16(-middle), up | 0x8000)
    np.testing.assert_array_equal(to_fp16(np.nextafter(middle, np.float32(0))), halves)
    np.testing.assert_array_equal(to_fp16(np.nextafter(middle, np.float32(1e9))), halves + 1)
    large = torch.tensor([65504.0, 65519.0, 65520.0, 3e38, -65520.0, -1e30])
    assert to_fp16(large).tolist() == [0x7BFF] * 4 + [0xFBFF] * 2


def test_to_fp16_refuses_what_the_device_would() -> None:
    with pytest.raises(ValueError, match=r"inf at index \(1, 0\)"):
        to_fp16(torch.tensor([[0.0], [torch.inf]]))
    with pytest.raises(ValueError, match="nan at index"):
        to_fp16(torch.tensor([torch.nan]))
    with pytest.raises(TypeError, match="float64"):
        to_fp16(torch.zeros(2, dtype=torch.float64))


def test_hadamard_equals_the_literal_contract() -> None:
    groups = random_groups(1, 12)
    zeros, tiny = np.zeros(128, np.uint16), np.zeros(128, np.uint16)
    tiny[0] = 0x8001  # every sum is one subnormal step / 128, of either sign: rounds to zero
    largest = np.where(np.array(SIGNS) > 0, 0x7BFF, 0xFBFF).astype(np.uint16)
    extended = np.full(128, 0x7FFF, np.uint16)
    one = np.zeros(128, np.uint16)
    one[5] = 0x7BFF
    special = [zeros, zeros | 0x8000, tiny, largest, extended, one]
    for group in [*groups, *special]:
        got = hadamard_fp16(group, SIGNS)
        assert got.tolist() == ref.hadamard(group.tolist(), SIGNS)


def test_hadamard_rounds_ties_once_to_even() -> None:
    # Element 0 alone gives x / 128 everywhere; a subnormal x / 128 has seven bits to round.
    groups = np.zeros((1023, 128), np.uint16)
    groups[:, 0] = np.arange(1, 1024)
    expected = [round(Fraction(pattern, 128)) for pattern in range(1, 1024)]
    magnitudes = hadamard_fp16(groups, SIGNS) & 0x7FFF
    np.testing.assert_array_equal(magnitudes, np.tile(np.array([expected]).T, 128))
    # The sum 2**11 + 1 + 2**-24 is just above a tie: rounding through float32 first would lose it.
    group = np.zeros(128, np.uint16)
    group[[0, 1, 2]] = [0x6800, 0x3C00, 0x0001]
    signs = (1,) * 128
    assert hadamard_fp16(group, signs)[0] == ref.round_fp16(Fraction(2049 * 2**24 + 1, 2**31))
    assert hadamard_fp16(group, signs)[0] == 0x4C01


def test_hadamard_treats_groups_alone() -> None:
    rows = random_groups(2, 6)
    wide = rows.reshape(2, 384)
    np.testing.assert_array_equal(
        hadamard_fp16(wide, SIGNS).reshape(6, 128), hadamard_fp16(rows, SIGNS)
    )


@pytest.mark.parametrize("ties", TieRule)
@pytest.mark.parametrize("name", FORMATS)
def test_quantizer_equals_the_literal_contract(name: str, ties: TieRule) -> None:
    fmt = get_format(name)
    rows = random_groups(3, 12)
    zeros = np.zeros((1, 128), np.uint16)
    subnormal = np.full((1, 128), 0x03FF, np.uint16)
    subnormal[0, ::2] |= 0x8000
    smallest_normal, mixed = subnormal.copy(), subnormal.copy()
    smallest_normal[0, 0] = 0x0400
    mixed[0, 1] = 0x8400  # in a dual format the positive half alone is a zero group
    largest = np.full((1, 128), 0x7BFF, np.uint16)
    largest[0, 1::2] = 0xFBFF
    rows = np.concatenate([rows, zeros, zeros | 0x8000, subnormal, smallest_normal, mixed, largest])
    got = quantize_activations(rows, fmt, ties)
    for row, patterns in enumerate(rows):
        codes, scale, scale_neg = ref.quantize_group(patterns.tolist(), fmt, ties)
        assert got.codes[row].tolist() == codes
        assert got.scale[row].tolist() == [scale]
        assert got.scale_neg[row].tolist() == [scale_neg]


@pytest.mark.parametrize("name", ["E2M1", "E2M3", "DUAL4", "DUAL6"])
def test_every_value_against_many_maxima(name: str) -> None:
    """All FP16 x up to m, both signs; codes by comparing integers 2 M |x| and 2 t m."""
    fmt = get_format(name)
    for peak in (0x0400, 0x0401, 0x3C00, 0x3C01, 0x3E90, 0x3FFF, 0x5690, 0x7BFE, 0x7BFF):
        below = np.arange(peak + 1, dtype=np.uint16)[-40000:]
        if peak > 0x3C00:
            below = below[below >= peak - 0x3000]  # lower ones are far below the first threshold
        fill = np.full(-len(below) % 126, peak, np.uint16)
        x = np.concatenate([below, fill]).reshape(-1, 126)
        ends = np.tile(np.array([peak, peak | 0x8000], np.uint16), (len(x), 1))
        m = int(ref.fp16_value(peak) * 2**24)
        for sign in (0, 0x8000):
            rows = np.concatenate([x | np.uint16(sign), ends], 1)
            steps = np.abs(values_of(rows).numpy().astype(np.float64) * 2.0**24).astype(np.int64)
            negative = rows >= 0x8000
            for ties in TieRule:
                expected = np.zeros(rows.shape, np.int64)
                for side in (False, True):
                    half = fmt.half(side)
                    rank = np.zeros(rows.shape, np.int64)
                    for k in range(len(half.levels) - 1):
                        left = 2 * fmt.scale_top(side) * steps
                        right = (half.levels[k] + half.levels[k + 1]) * m
                        out = {"even": k % 2 == 1, "up": not side, "down": side}[ties]
                        rank += (left >= right) if out else (left > right)
                    codes = np.array([fmt.encode_int(v, side) for v in half.levels])
                    expected = np.where(negative == side, codes[rank], expected)
                got = quantize_activations(rows, fmt, ties)
                np.testing.assert_array_equal(got.codes, expected)
                assert (got.scale == peak).all()


def test_negative_scale_reaches_the_extended_range() -> None:
    rows = np.full((1, 128), 0xFBFF, np.uint16)
    for name, value in (("DUAL4", 65504 * 12 / 7), ("DUAL6", 65504 * 15 / 8)):
        got = quantize_activations(rows, get_format(name))
        assert 0x7C00 <= got.scale_neg.item() == ref.round_fp16(Fraction(value))
        assert got.scale.item() == 0


def test_what_the_device_halts_on_is_refused() -> None:
    rows = np.zeros((2, 256), np.uint16)
    rows[1, 200] = 0xFC00
    for name in ("E2M1", "DUAL4"):
        with pytest.raises(ValueError, match=r"row 1, group 1.*NONFINITE"):
            quantize_activations(rows, get_format(name))


def test_rows_must_be_whole_groups() -> None:
    with pytest.raises(ValueError, match="rows of 130"):
        quantize_activations(np.zeros((1, 130), np.uint16), get_format("E2M1"))
