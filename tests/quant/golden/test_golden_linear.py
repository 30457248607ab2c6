# SPDX-License-Identifier: Apache-2.0
"""Golden linear layers against the literal contract: sums, roundings, order, dual halves."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch

from lutvar.contract.formats import NumberFormat, get_format
from lutvar.contract.hadamard import sign_vector
from lutvar.quant.golden import ActivationCodes, GoldenLinear, linear
from lutvar.quant.ptq.linear import QuantizedLinear
from lutvar.quant.ptq.weights import QuantizationError
from lutvar.quant.var.sites import LinearSite
from support.quant import golden_reference as ref
from support.quant.golden_cases import make_layer

PAIRS = (("E2M1", "E2M1"), ("E2M3", "E2M3"), ("DUAL4", "E2M1"), ("DUAL6", "E2M3"))


def random_activations(fmt: NumberFormat, rows: int, groups: int, seed: int) -> ActivationCodes:
    rng = np.random.default_rng(seed)
    codes = rng.choice(np.array(fmt.codes_used, np.uint8), (rows, groups * 128))
    codes[0] = max(fmt.codes_used, key=lambda c: abs(ref.grid(c, fmt)))
    scale = rng.integers(0x0400, 0x7C00, (rows, groups)).astype(np.uint16)
    scale[rng.random(scale.shape) < 0.1] = 0
    scale_neg = rng.integers(0x0400, 0x8000, (rows, groups)).astype(np.uint16)
    scale_neg[rng.random(scale.shape) < 0.1] = 0
    return ActivationCodes(codes, scale, scale_neg if fmt.dual else np.zeros_like(scale))


def check(layer: QuantizedLinear, acts: ActivationCodes) -> np.ndarray:
    """Compare every output and group sum with the reference; returns y."""
    y, sums = GoldenLinear(layer).multiply(acts, keep_sums=True)
    assert sums is not None
    for r in range(acts.codes.shape[0]):
        pairs = list(zip(acts.scale[r].tolist(), acts.scale_neg[r].tolist(), strict=True))
        for o in range(layer.outputs):
            expected, expected_sums = ref.result(
                acts.codes[r].tolist(),
                pairs,
                layer.codes[o].tolist(),
                layer.scales[o].tolist(),
                float(layer.bias[o]),
                layer.exponent,
                layer.activation_format,
                layer.weight_format,
            )
            assert sums[r, o].tolist() == expected_sums
            assert Fraction(float(y[r, o])) == expected
    assert not np.signbit(y[y == 0]).any(), "zeros are +0"
    return y


@pytest.mark.parametrize(("activation", "weight"), PAIRS)
def test_equals_the_literal_contract(activation: str, weight: str) -> None:
    layer = make_layer(activation, weight, outputs=5, groups=3, seed=1)
    check(layer, random_activations(layer.activation_format, 4, 3, seed=2))


@pytest.mark.parametrize("exponent", [-32, 31])
def test_both_ends_of_the_exponent_range(exponent: int) -> None:
    layer = make_layer("DUAL6", "E2M3", outputs=4, groups=2, seed=3, exponent=exponent)
    y = check(layer, random_activations(layer.activation_format, 3, 2, seed=4))
    normal = np.abs(y[y != 0])
    assert np.isfinite(y).all() and normal.min() >= np.finfo(np.float32).tiny


def one_hot(fmt: str, value: int, groups: int) -> ActivationCodes:
    """One row whose groups hold a single code of that grid value, scale 1."""
    number_format = get_format(fmt)
    codes = np.zeros((1, 128 * groups), np.uint8)
    codes[0, ::128] = number_format.encode_int(abs(value), value < 0)
    scale = np.full((1, groups), 0x3C00, np.uint16)
    return ActivationCodes(codes, scale, scale if number_format.dual else np.zeros_like(scale))


def constant_layer(
    patterns: list[int], addend: float, weight: int = 1, **changes: object
) -> QuantizedLinear:
    """One output; the first weight of each group has a grid value, the others are zero."""
    fmt = get_format("E2M3")
    codes = np.zeros((1, 128 * len(patterns)), np.uint8)
    codes[0, ::128] = fmt.encode_int(abs(weight), weight < 0)
    layer = QuantizedLinear(
        site=LinearSite(0, "proj"),
        codes=codes,
        scales=np.array([patterns], np.uint16),
        exponent=0,
        bias=np.array([addend], np.float32),
        weight_format=fmt,
        activation_format=fmt,
        rotate=False,
    )
    return replace(layer, **changes)  # type: ignore[arg-type]


def test_product_is_rounded_once_to_even() -> None:
    # D = 49 has 6 bits, m ws 22: some products end in a 1 followed by zeros right after bit 24.
    rng = np.random.default_rng(7)
    met = set()
    for m, ws in rng.integers(0x3C00, 0x4000, (200, 2)).tolist():
        exact = 49 * ref.fp16_value(m) * ref.fp16_value(ws)
        halves = exact / Fraction(float(np.spacing(np.float32(float(exact))))) * 2
        if halves.denominator == 1 and halves % 2 == 1:
            acts = one_hot("E2M3", 7, 1)._replace(scale=np.array([[m]], np.uint16))
            check(constant_layer([ws], 0.0, weight=7), acts)
            met.add(int(halves % 4))
    assert met == {1, 3}, "ties that go down and ties that go up"


def test_accumulation_is_sequential_and_rounds_each_sum() -> None:
    # 1 + 2**-24 is a tie: to even, so adding it twice in order changes nothing, while
    # 2**-24 + 2**-24 added first would. Scales: FP16 2**-12 squared needs m = ws = 2**-12.
    acts = one_hot("E2M3", 1, 2)
    acts = acts._replace(scale=np.full((1, 2), 0x0C00, np.uint16))
    assert ref.fp16_value(0x0C00) == Fraction(1, 1 << 12)
    assert check(constant_layer([0x0C00, 0x0C00], 1.0), acts)[0, 0] == 1.0
    odd = float(np.nextafter(np.float32(1), np.float32(2)))
    assert check(constant_layer([0x0C00, 0], odd), acts)[0, 0] == 1 + 2.0**-22
    # The order of groups: 2**24 + 1 - 2**24 is 0 in order, 1 in the other.
    layer = constant_layer([0x3C00, 0x6C00], -(2.0**24))
    first_small = one_hot("E2M3", 1, 2)._replace(scale=np.array([[0x3800, 0x6C00]], np.uint16))
    assert check(layer, first_small)[0, 0] == -(2.0**24) + 2.0**24
    swapped = constant_layer([0x6C00, 0x3C00], -(2.0**24))
    first_large = one_hot("E2M3", 1, 2)._replace(scale=np.array([[0x6C00, 0x3800]], np.uint16))
    assert check(swapped, first_large)[0, 0] == 0.5


def test_cancellation_gives_plus_zero() -> None:
    acts = one_hot("E2M3", -1, 1)
    assert check(constant_layer([0x3C00], 1.0), acts)[0, 0] == 0.0
    acts = acts._replace(codes=np.zeros_like(acts.codes))
    assert check(constant_layer([0x3C00], 0.0, weight=-1), acts)[0, 0] == 0.0


def test_dual_halves_are_added_negative_first() -> None:
    fmt = get_format("DUAL6")
    codes = np.zeros((1, 128), np.uint8)
    codes[0, 0], codes[0, 1] = fmt.encode_int(1, True), fmt.encode_int(1, False)
    one = np.array([[0x3C00]], np.uint16)
    acts = ActivationCodes(codes, one, one)
    weights = np.zeros((1, 128), np.uint8)
    weights[0, :2] = get_format("E2M3").encode_int(1, False)
    layer = constant_layer([0x3C00], 2.0**24, codes=weights, activation_format=fmt)
    # 2**24 - 1 + 1 is 2**24; positive first, 2**24 + 1 would round to 2**24 and leave 2**24 - 1.
    assert check(layer, acts)[0, 0] == 2.0**24


def test_row_chunks_do_not_change_results() -> None:
    torch.manual_seed(0)
    layer = make_layer("DUAL4", "E2M1", outputs=1024, groups=1, seed=5)
    x = torch.nn.functional.gelu(torch.randn(300, 128))
    whole = linear(layer, x, keep_sums=True)
    for start in (0, 7, 299):
        part = linear(layer, x[start : start + 1], keep_sums=True)
        np.testing.assert_array_equal(part.y, whole.y[start : start + 1])
        assert part.group_sums is not None and whole.group_sums is not None
        np.testing.assert_array_equal(part.group_sums, whole.group_sums[start : start + 1])
    assert linear(layer, x[:2]).group_sums is None
    assert linear(layer, x[:0]).y.shape == (0, 1024)


def test_whole_path_from_float_rows() -> None:
    torch.manual_seed(1)
    layer = make_layer("E2M1", "E2M1", outputs=3, groups=2, seed=6, rotate=True, ties="up")
    x = torch.randn(2, 256) * torch.tensor([[1.0], [300.0]])
    got = linear(layer, x)
    for r, row in enumerate(x.half().numpy().view(np.uint16)):
        rotated = [ref.hadamard(part.tolist(), sign_vector(42)) for part in row.reshape(2, 128)]
        assert got.inputs[r].tolist() == [z for part in rotated for z in part]
        for g, part in enumerate(rotated):
            codes, scale, _ = ref.quantize_group(part, layer.activation_format, "up")
            assert got.activations.codes[r, 128 * g : 128 * (g + 1)].tolist() == codes
            assert got.activations.scale[r, g] == scale
    np.testing.assert_array_equal(check(layer, got.activations), got.y)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"exponent": 32}, "exponent 32 is outside -32..31"),
        ({"exponent": -33}, "exponent -33"),
        ({"codes": np.full((1, 128), 0x20, np.uint8)}, "code 0x20 is not a code that E2M3 uses"),
        ({"codes": np.zeros((1, 100), np.uint8)}, "width 100 is not a multiple of 128"),
        ({"codes": np.zeros(128, np.uint8)}, "expected"),
        ({"codes": np.zeros((1, 128), np.int64)}, "codes is int64"),
        ({"scales": np.zeros((1, 2), np.uint16)}, r"scales is uint16 \(1, 2\)"),
        ({"scales": np.full((1, 1), 0x7C00, np.uint16)}, "0x7c00 is not a finite"),
        ({"bias": np.zeros(2, np.float32)}, "bias"),
        ({"ties": "odd"}, "unknown tie rule"),
    ],
)
def test_inconsistent_layers_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        constant_layer([0x3C00], 0.0, **changes)


def test_formats_whose_sums_are_not_exact_in_float32_are_refused() -> None:
    wide = get_format("E3M2")
    with pytest.raises(QuantizationError, match=r"reach 25690112.*2\*\*24"):
        constant_layer(
            [0x3C00],
            0.0,
            weight_format=wide,
            activation_format=wide,
            codes=np.zeros((1, 128), np.uint8),
        )
