# SPDX-License-Identifier: Apache-2.0
"""Scale rules and granularities against fractions, and against the kernels they stand for."""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import pairwise

import ml_dtypes
import numpy as np
import pytest
import torch

from lutvar.contract.formats import CATALOG, NumberFormat, get_format
from lutvar.contract.formats.ties import TieRule
from lutvar.quant.formats.codec import codec, encode_scalar
from lutvar.quant.formats.grouping import Granularity, channel, group, tensor, token, token_and_head
from lutvar.quant.formats.quantize import quantize
from lutvar.quant.formats.scales import SCALE_RULES, ScaleRule

SMALL = [f for f in CATALOG.values() if f.bits <= 6]
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def boundary_block(fmt: NumberFormat, dtype: torch.dtype, peak: float) -> torch.Tensor:
    """One block whose values lie on and next to the decision points for absolute maxima `peak`."""
    values = [peak, -peak, 0.0, -0.0]
    for negative, sign in ((False, 1), (True, -1)):
        levels = [v for v in fmt.half(negative).levels if v <= fmt.scale_top(negative)]
        for a, b in pairwise(levels):
            values.append(sign * peak * (a + b) / (2 * fmt.scale_top(negative)))
    exact = torch.tensor(values, dtype=torch.float64).to(dtype)
    ends = (torch.tensor(math.inf, dtype=dtype), torch.tensor(-math.inf, dtype=dtype))
    block = torch.cat((exact, *(torch.nextafter(exact, end) for end in ends)))
    return block.clamp(-peak, peak)


def expected_exact(block: torch.Tensor, fmt: NumberFormat, ties: str) -> list[int]:
    """Rule `exact` in fractions: the code nearest to |x| M / m."""
    values = [Fraction(v) for v in block.tolist()]
    peaks = {
        n: max((abs(v) for v in values if not fmt.dual or (v < 0) == n), default=Fraction(0))
        for n in (False, True)
    }
    return [
        encode_scalar(v * fmt.max_value(v < 0) / peaks[v < 0], fmt, ties)  # type: ignore[arg-type]
        for v in values
    ]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("fmt", SMALL, ids=lambda f: f.name)
def test_exact_rule_on_boundaries(fmt: NumberFormat, dtype: torch.dtype) -> None:
    # 105 and 1.640625 = 105/64 are multiples of every odd divisor of the grids: ties are met.
    for peak in (1.0, 105.0, 1.640625, 0.33203125, 3.0 * 2.0**-13):
        block = boundary_block(fmt, dtype, peak)
        for ties in TieRule:
            got = quantize(block, fmt, token(), "exact", ties)
            assert got.codes.tolist() == expected_exact(block, fmt, ties), (peak, ties)
            assert got.scales.item() == peak


@pytest.mark.parametrize("rule", ["absmax_fp32", "absmax_fp16", "absmax_bf16"])
@pytest.mark.parametrize("fmt", SMALL, ids=lambda f: f.name)
def test_absmax_rules_are_nearest_with_the_rounded_scale(fmt: NumberFormat, rule: str) -> None:
    numpy_type = {"fp32": np.float32, "fp16": np.float16, "bf16": ml_dtypes.bfloat16}[rule[7:]]
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(3, 48, generator=generator)
    got = quantize(x, fmt, token(), rule)
    for row, block in enumerate(x):
        for negative in (False, True):
            half = block[(block < 0) == negative] if fmt.dual else block
            peak = float(half.abs().max())
            scale = float(np.array(peak / float(fmt.max_value(negative))).astype(numpy_type))
            stored = got.scales_neg if fmt.dual and negative else got.scales
            assert stored is not None
            assert stored[row].item() == scale
            for column, value in enumerate(block.tolist()):
                if (value < 0) == negative:
                    code = encode_scalar(Fraction(value) / Fraction(scale), fmt)
                    assert got.codes[row, column].item() == code


def kernel_scan(x: np.ndarray, fmt: NumberFormat) -> np.ndarray:
    """The scan of FPQVAR's CUDA kernel: ascending grid, FP32 distance, `<=` replaces the winner."""
    used = sorted(float(fmt.decode(c)) for c in fmt.codes_used)  # type: ignore[arg-type]
    best, distance = np.zeros(x.shape, np.float32), np.full(x.shape, 102400, np.float32)
    for level in np.array(used, np.float32):
        with np.errstate(invalid="ignore"):
            d = np.abs(x.astype(np.float32) - level)
        best, distance = np.where(d <= distance, level, best), np.where(d <= distance, d, distance)
    return best


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("name", ["E2M1", "E1M2", "E3M0", "E2M3", "E3M2"])
def test_fpqvar_rule_gives_the_values_of_its_kernel(name: str, dtype: type) -> None:
    fmt = get_format(name)
    rng = np.random.default_rng(6)
    rows = [boundary_block(fmt, torch.float32, peak).numpy()[:60] for peak in (6.0, 105.0, 0.7)]
    rows = [np.resize(row, 128) for row in rows]
    rows += [np.zeros(128), rng.standard_normal(128), np.full(128, 2.0**-24), rows[0] * 2.0**-16]
    x = np.array(rows).astype(dtype)
    with np.errstate(invalid="ignore", divide="ignore"):
        scale = (np.abs(x).max(1, keepdims=True) / dtype(float(fmt.max_value()))).astype(dtype)
        ratio = (x / scale).astype(dtype)
    expected = kernel_scan(ratio, fmt).astype(dtype) * scale
    got = quantize(torch.from_numpy(x), fmt, group(128), "fpqvar")
    np.testing.assert_array_equal(got.scales.numpy(), scale)
    np.testing.assert_array_equal(got.dequantize().numpy(), expected)


def test_fpqvar_rule_on_every_fp16_value_up_to_six() -> None:
    patterns = np.arange(0x4601, dtype=np.uint16)  # 0 .. 6.0; scale 1 when 6 is the maximum
    positive = patterns.view(np.float16)
    x = np.concatenate([positive, -positive])
    fmt = get_format("E2M1")
    up = quantize(torch.from_numpy(x), fmt, tensor(), "fpqvar").dequantize().numpy()
    np.testing.assert_array_equal(up, kernel_scan(x, fmt))
    down = quantize(torch.from_numpy(x), fmt, tensor(), "fpqvar", "down").dequantize().numpy()
    assert int((up != down).sum()) == 14
    even = quantize(torch.from_numpy(x), fmt, tensor(), "fpqvar", "even").dequantize().numpy()
    assert int((up != even).sum()) == int((down != even).sum()) == 7


def test_fpqvar_dual_splits_by_sign() -> None:
    fmt = get_format("DUAL4")
    rng = np.random.default_rng(7)
    x = rng.standard_normal((6, 128)).astype(np.float16)
    x[1] = np.abs(x[1])
    x[2] = -np.abs(x[2])
    total = np.zeros_like(x)
    for side, half in ((np.minimum(x, 0), "E1M2"), (np.maximum(x, 0), "E2M1")):
        with np.errstate(invalid="ignore", divide="ignore"):
            part = get_format(half)
            scale = np.abs(side).max(1, keepdims=True) / np.float16(float(part.max_value()))
            total += kernel_scan(side / scale, part).astype(np.float16) * scale
    got = quantize(torch.from_numpy(x), fmt, group(128), "fpqvar").dequantize().numpy()
    np.testing.assert_array_equal(got, total)


def test_pow2_rule_follows_the_mx_definition() -> None:
    generator = torch.Generator().manual_seed(8)
    x = torch.randn(5, 32, generator=generator) * torch.tensor([[1e-3], [1.0], [7.9], [8.0], [300]])
    for name, top_exponent in (("E2M1", 2), ("E2M3", 2), ("E3M2", 4), ("INT8", 6)):
        fmt = get_format(name)
        got = quantize(x, fmt, group(32), "pow2")
        for row, block in enumerate(x):
            exponent = math.floor(math.log2(float(block.abs().max()))) - top_exponent
            assert got.scales[row, 0].item() == 2.0**exponent
            expected = [
                encode_scalar(Fraction(v) / Fraction(2) ** exponent, fmt) for v in block.tolist()
            ]
            assert got.codes[row].tolist() == expected
    tiny = torch.tensor([[0.0, -0.0], [1e-44, 0.0]])
    assert quantize(tiny, get_format("E2M1"), token(), "pow2").scales.tolist() == [2.0**-127] * 2


def test_e4m3_rule_uses_one_float32_and_e4m3_group_scales() -> None:
    generator = torch.Generator().manual_seed(9)
    x = torch.randn(4, 64, generator=generator) * torch.tensor([[1e-7], [0.1], [1.0], [30.0]])
    fmt = get_format("E2M1")
    got = quantize(x, fmt, group(16), "e4m3")
    tensor_scale = np.float32(float(x.abs().max()) / (448.0 * 6))
    peaks = x.view(4, 4, 16).abs().amax(-1).numpy()
    ratio = (peaks.astype(np.float64) / 6).astype(np.float32) / tensor_scale
    scales = ratio.astype(ml_dtypes.float8_e4m3fn).astype(np.float32)
    np.testing.assert_array_equal(got.scales.numpy(), scales)
    assert scales[0].max() == 0, "the first row is small enough for its scale to vanish"
    assert scales.max() == 448
    for row in range(4):
        for column, value in enumerate(x[row].tolist()):
            step = Fraction(float(scales[row, column // 16])) * Fraction(float(tensor_scale))
            code = encode_scalar(Fraction(value) / step, fmt) if step else 0
            assert got.codes[row, column].item() == code


@pytest.mark.parametrize("rule", ScaleRule)
@pytest.mark.parametrize("fmt", CATALOG.values(), ids=lambda f: f.name)
def test_dequantized_values_are_code_times_scale_and_close(fmt: NumberFormat, rule: str) -> None:
    generator = torch.Generator().manual_seed(10)
    for dtype in DTYPES:
        x = torch.randn(4, 256, generator=generator).to(dtype)
        got = quantize(x, fmt, scale_rule=rule)
        assert set(got.codes.unique().tolist()) <= set(fmt.codes_used)
        values = got.dequantize(torch.float32)
        assert got.dequantize().dtype == dtype
        blocks, codes = values.view(4, 2, 128), got.codes.view(4, 2, 128)
        negative = codes >= fmt.sign_bit
        steps = [
            (s.stored.double() * s.unit / s.divisor).unsqueeze(-1)
            for s in (got.scaling, got.scaling_neg or got.scaling)
        ]
        ideal = codec(fmt).grid(codes, torch.float64) * torch.where(negative, steps[1], steps[0])
        if rule == "fpqvar":  # multiplies in the tensor's type
            ideal = ideal.to(dtype)
        torch.testing.assert_close(blocks, ideal.float(), rtol=2**-23, atol=0)
        noise = float((values - x.float()).norm() / x.float().norm())
        assert noise < (0.25 if fmt.bits == 4 else 0.12)


@pytest.mark.parametrize("rule", [r for r in ScaleRule if r != ScaleRule.POW2])
@pytest.mark.parametrize("name", ["E2M1", "DUAL4", "INT6", "DUAL6"])
def test_zero_groups_and_one_signed_groups(name: str, rule: str) -> None:
    fmt = get_format(name)
    x = torch.tensor([[0.0, -0.0, 0.0], [1.0, 2.0, 3.0], [-1.0, -2.0, -3.0]])
    got = quantize(x, fmt, token(), rule)
    assert got.codes[0].tolist() == [0, 0, 0]
    assert got.scales[0].item() == 0
    assert torch.equal(got.dequantize()[0], torch.zeros(3))
    if fmt.dual:
        assert got.scales_neg is not None
        assert got.scales_neg[0].item() == got.scales_neg[1].item() == 0
        assert got.scales[2].item() == 0
    assert (got.codes[1] < fmt.sign_bit).all()
    assert (got.codes[2] >= fmt.sign_bit).all()


def test_exact_rule_zero_group_threshold_is_for_fp16_only() -> None:
    fmt = get_format("E2M1")
    below, at = 2.0**-14 - 2.0**-24, 2.0**-14
    x = torch.tensor([[below, -below], [at, -below]])
    half = quantize(x.half(), fmt, token(), "exact")
    assert half.scales.tolist() == [0.0, at]
    assert half.codes.tolist() == [[0, 0], [7, 15]]
    assert quantize(x, fmt, token(), "exact").scales.tolist() == [
        torch.tensor(below).item(),
        at,
    ]


GRANULARITIES: list[tuple[Granularity, tuple[int, ...]]] = [
    (group(4), (2, 3, 2)),
    (group(3, axis=1), (2, 8, 1)),
    (group(2, axis=0), (3, 8, 1)),
    (token(), (2, 3)),
    (channel(0), (2,)),
    (channel(2), (8,)),
    (channel(-2), (3,)),
    (tensor(), ()),
    (token_and_head(4), (2, 3, 4)),
]


@pytest.mark.parametrize(("granularity", "shape"), GRANULARITIES, ids=str)
def test_granularities_share_one_maximum_and_round_trip(
    granularity: Granularity, shape: tuple[int, ...]
) -> None:
    x = torch.arange(1.0, 49.0).view(2, 3, 8)
    blocks = granularity.split(x)
    assert blocks.shape[:-1] == shape
    assert torch.equal(granularity.join(blocks, x), x)
    got = quantize(x, get_format("INT8"), granularity, "absmax_fp32")
    assert got.codes.shape == x.shape
    peaks = granularity.join(blocks.amax(-1, keepdim=True).expand_as(blocks), x)
    scale = (peaks.double() / 127).float()
    expected = (x.double() / scale.double()).round()
    assert torch.equal(codec(get_format("INT8")).grid(got.codes, torch.float64), expected)
    assert torch.equal(got.dequantize(), (expected * scale).float())


@pytest.mark.parametrize(
    ("x", "arguments", "message"),
    [
        (torch.ones(2, 130), {}, "130 values does not divide into groups of 128"),
        (torch.ones(2, 6), {"granularity": token_and_head(4)}, "heads, here 4"),
        (torch.ones(0, 128), {}, "at least one axis"),
        (torch.ones(4), {"granularity": group(4, axis=1)}, "axis 1"),
        (torch.ones(1, 128).double(), {}, "24 significant bits"),
        (torch.ones(1, 128), {"scale_rule": "minmax"}, "unknown scale rule 'minmax'"),
        (torch.ones(1, 128), {"ties": "odd"}, "unknown tie rule 'odd'"),
        (torch.full((1, 128), 1e6), {"scale_rule": "absmax_fp16"}, "does not fit torch.float16"),
        (torch.tensor([[1.0] * 127 + [math.inf]]), {}, r"inf at index \(0, 127\)"),
        (torch.tensor([[1.0, math.nan] + [1.0] * 126]), {}, r"nan at index \(0, 1\)"),
    ],
)
def test_bad_input_is_refused(x: torch.Tensor, arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        quantize(x, get_format("E2M1"), **arguments)  # type: ignore[arg-type]


def test_rules_carry_their_own_tie_rule() -> None:
    assert SCALE_RULES[ScaleRule.FPQVAR].ties == TieRule.UP
    x = torch.tensor([[6.0, -0.25]])
    assert quantize(x, get_format("E2M1"), token(), "fpqvar").codes.tolist() == [[7, 0]]
    assert quantize(x, get_format("E2M1"), token(), "fpqvar", "down").codes.tolist() == [[7, 9]]
