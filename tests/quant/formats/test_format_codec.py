# SPDX-License-Identifier: Apache-2.0
"""Codecs against two independent libraries, and the torch form against the scalar reference."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

import gfloat
import ml_dtypes
import numpy as np
import pytest
import torch
from gfloat import formats as gfloat_formats

from lutvar.contract.formats import CATALOG, NumberFormat, get_format
from lutvar.contract.formats.spec import HalfGrid
from lutvar.contract.formats.ties import TieRule, check_ties, nearest_rank
from lutvar.quant.formats.codec import codec, decision_table, decode_scalar, encode_scalar
from lutvar.quant.formats.rounding import BF16, FP16, FP32, round_float

OCP = {
    "E2M1": (ml_dtypes.float4_e2m1fn, gfloat_formats.format_info_ocp_e2m1),
    "E2M3": (ml_dtypes.float6_e2m3fn, gfloat_formats.format_info_ocp_e2m3),
    "E3M2": (ml_dtypes.float6_e3m2fn, gfloat_formats.format_info_ocp_e3m2),
    "E4M3": (ml_dtypes.float8_e4m3fn, gfloat_formats.format_info_ocp_e4m3),
    "E5M2": (ml_dtypes.float8_e5m2, gfloat_formats.format_info_ocp_e5m2),
}
EVERY = list(CATALOG.values())


def boundary_values(fmt: NumberFormat) -> torch.Tensor:
    """Every level and decision point of both signs with both float64 neighbours, zeros, ends."""
    points = [0.0, -0.0]
    for negative, sign in ((False, 1), (True, -1)):
        half = fmt.half(negative)
        levels = [level * half.unit for level in half.levels]
        middles = [(a + b) / 2 for a, b in pairwise(levels)]
        points += [float(sign * v) for v in (*levels, *middles, 2 * levels[-1], levels[1] / 64)]
    exact = torch.tensor(points, dtype=torch.float64)
    up = torch.nextafter(exact, torch.tensor(torch.inf, dtype=torch.float64))
    down = torch.nextafter(exact, torch.tensor(-torch.inf, dtype=torch.float64))
    return torch.cat((exact, up, down))


@pytest.mark.parametrize("name", OCP)
def test_decodes_every_code_like_ml_dtypes_and_gfloat(name: str) -> None:
    fmt, (ml_type, info) = get_format(name), OCP[name]
    codes = np.arange(fmt.code_count, dtype=np.uint8)
    ours = codec(fmt).decode(torch.from_numpy(codes), torch.float64).numpy()
    theirs = codes.view(ml_type).astype(np.float64)
    finite = np.isfinite(theirs)
    np.testing.assert_array_equal(np.isnan(ours), ~finite)
    np.testing.assert_array_equal(ours[finite], theirs[finite])
    for code in codes[finite]:
        assert gfloat.decode_float(info, int(code)).fval == float(decode_scalar(int(code), fmt))


@pytest.mark.parametrize("name", OCP)
def test_rounds_a_dense_grid_like_ml_dtypes_and_gfloat(name: str) -> None:
    fmt, (ml_type, info) = get_format(name), OCP[name]
    top = float(fmt.max_value())
    rng = np.random.default_rng(1)
    ties = boundary_values(fmt)[: len(fmt.positive.levels) * 4].numpy().astype(np.float32)
    dense = np.concatenate(
        [
            ties,
            np.nextafter(ties, np.float32(np.inf)),
            np.nextafter(ties, np.float32(-np.inf)),
            np.linspace(-top, top, 4001, dtype=np.float32),
            rng.standard_normal(4000).astype(np.float32) * np.float32(top / 4),
            np.exp2(rng.uniform(-24, np.log2(top), 4000)).astype(np.float32),
        ]
    )
    dense = dense[np.abs(dense) <= top]
    encoder = codec(fmt)
    ours = encoder.decode(encoder.encode(torch.from_numpy(dense))).numpy()
    np.testing.assert_array_equal(ours, dense.astype(ml_type).astype(np.float32))
    for value, ours_value in zip(dense[::7], ours[::7], strict=True):
        rounded = gfloat.round_float(info, float(value), gfloat.RoundMode.TiesToEven)
        assert rounded == ours_value


@pytest.mark.parametrize("ties", TieRule)
@pytest.mark.parametrize("fmt", EVERY, ids=lambda f: f.name)
def test_torch_form_equals_the_scalar_reference(fmt: NumberFormat, ties: str) -> None:
    values = boundary_values(fmt)
    top = float(fmt.max_value())
    generator = torch.Generator().manual_seed(2)
    noise = torch.randn(60, generator=generator, dtype=torch.float64) * top / 3
    values = torch.cat((values, noise))
    expected = [encode_scalar(Fraction(v), fmt, check_ties(ties)) for v in values.tolist()]
    assert codec(fmt, check_ties(ties)).encode(values).tolist() == expected


@pytest.mark.parametrize("fmt", EVERY, ids=lambda f: f.name)
def test_each_used_code_survives_a_round_trip(fmt: NumberFormat) -> None:
    used = torch.tensor(fmt.codes_used, dtype=torch.uint8)
    for ties in TieRule:
        encoder = codec(fmt, ties)
        assert torch.equal(encoder.encode(encoder.decode(used, torch.float64)), used)


def test_dual_formats_use_15_and_64_codes() -> None:
    for name, count in (("DUAL4", 15), ("DUAL6", 64)):
        fmt = get_format(name)
        encoder = codec(fmt)
        steps = torch.linspace(-40, 40, 16001, dtype=torch.float64)
        assert len(encoder.encode(steps).unique()) == len(fmt.codes_used) == count


#: Value of E2M1 (or DUAL4) that a tie goes to, worked out by hand from the levels
#: 0 .5 1 1.5 2 3 4 6; below zero, DUAL4 has steps of .25.
TIES_BY_HAND = [
    # format, value, even, up, down
    ("E2M1", 0.25, 0.0, 0.5, 0.0),
    ("E2M1", 0.75, 1.0, 1.0, 0.5),
    ("E2M1", 1.25, 1.0, 1.5, 1.0),
    ("E2M1", 1.75, 2.0, 2.0, 1.5),
    ("E2M1", 2.5, 2.0, 3.0, 2.0),
    ("E2M1", 3.5, 4.0, 4.0, 3.0),
    ("E2M1", 5.0, 4.0, 6.0, 4.0),
    ("E2M1", -0.25, 0.0, 0.0, -0.5),
    ("E2M1", -0.75, -1.0, -0.5, -1.0),
    ("E2M1", -1.25, -1.0, -1.0, -1.5),
    ("E2M1", -3.5, -4.0, -3.0, -4.0),
    ("E2M1", -5.0, -4.0, -4.0, -6.0),
    ("DUAL4", -0.125, 0.0, 0.0, -0.25),
    ("DUAL4", -0.375, -0.5, -0.25, -0.5),
    ("DUAL4", -1.625, -1.5, -1.5, -1.75),
    ("DUAL4", 5.0, 4.0, 6.0, 4.0),
    ("DUAL6", -0.5, 0.0, 0.0, -1.0),
    ("DUAL6", -31.5, -32.0, -31.0, -32.0),
    ("DUAL6", 7.25, 7.0, 7.5, 7.0),
    ("INT4", 2.5, 2.0, 3.0, 2.0),
    ("INT4", -2.5, -2.0, -2.0, -3.0),
    ("INT4", -7.5, -8.0, -7.0, -8.0),
]


@pytest.mark.parametrize(("name", "value", "even", "up", "down"), TIES_BY_HAND)
def test_ties_worked_by_hand(name: str, value: float, even: float, up: float, down: float) -> None:
    fmt = get_format(name)
    for ties, expected in zip(TieRule, (even, up, down), strict=True):
        encoder = codec(fmt, ties)
        code = encoder.encode(torch.tensor([value]))
        assert encoder.decode(code).item() == expected, ties


@pytest.mark.parametrize("fmt", [f for f in EVERY if f.bits <= 6], ids=lambda f: f.name)
def test_decision_table_changes_only_at_decision_points(fmt: NumberFormat) -> None:
    for ties in TieRule:
        codes, origin = decision_table(fmt, ties)
        assert codes[origin] == 0
        assert codes[0] == fmt.encode_int(fmt.negative.top, True)
        assert codes[-1] == fmt.encode_int(fmt.positive.top, False)
        levels = [fmt.decode_int(code) for code in codes]
        assert levels == sorted(levels)  # type: ignore[type-var]
        assert sorted(set(codes)) == list(fmt.codes_used)


def test_bad_arguments_are_named() -> None:
    with pytest.raises(ValueError, match=r"nearest.*even, up, down"):
        check_ties("nearest")
    with pytest.raises(ValueError, match="absolute value"):
        nearest_rank((0, 1), -1, "even", True)
    with pytest.raises(ValueError, match=r"0x7f is reserved"):
        decode_scalar(0x7F, get_format("E4M3"))
    third = HalfGrid((0, 1), Fraction(1, 3))
    with pytest.raises(ValueError, match="not a power of two"):
        codec(NumberFormat("THIRD", 2, third, third))


@pytest.mark.parametrize(("to", "reference"), [(FP16, np.float16), (FP32, np.float32)])
def test_round_float_equals_numpy(to, reference) -> None:
    rng = np.random.default_rng(3)
    patterns = rng.integers(0, 2**63, 20000, dtype=np.uint64)
    values = patterns.view(np.float64)
    values = values[(np.abs(values) < to.largest) & (np.abs(values) > 1e-60)]
    half = rng.integers(0, 0x7BFF, 4000).astype(np.uint16)
    low = half.view(np.float16).astype(np.float64)
    middle = (low + (half + 1).astype(np.uint16).view(np.float16).astype(np.float64)) / 2
    near = [middle, np.nextafter(middle, 0), np.nextafter(middle, 1e9), -middle, low]
    values = np.concatenate([values, rng.standard_normal(4000) * 1e-6, [0.0], *near])
    rounded = round_float(torch.from_numpy(values), to).numpy()
    np.testing.assert_array_equal(rounded, values.astype(reference).astype(np.float64))


def test_round_float_equals_ml_dtypes_bfloat16() -> None:
    rng = np.random.default_rng(4)
    values = (rng.standard_normal(5000) * np.exp2(rng.uniform(-135, 100, 5000))).astype(np.float32)
    rounded = round_float(torch.from_numpy(values).double(), BF16).numpy()
    np.testing.assert_array_equal(rounded, values.astype(ml_dtypes.bfloat16).astype(np.float64))
