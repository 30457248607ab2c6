# SPDX-License-Identifier: Apache-2.0
"""Golden layers whose weights are in two terms: order of the sums, what they stand for."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch

from lutvar.contract.formats import get_format
from lutvar.contract.quant_preset import load_quant
from lutvar.quant.golden import ActivationCodes, GoldenLinear
from lutvar.quant.golden.activations import quantize_activations
from lutvar.quant.golden.fp16 import to_fp16
from lutvar.quant.ptq.linear import QuantizedLinear, WeightSet, quantize_linear
from lutvar.quant.ptq.rotation import signed_hadamard
from lutvar.quant.ptq.weights import QuantizationError, grid_values, round_weight
from lutvar.quant.var.sites import LinearSite
from support.quant import golden_reference as ref

SITE = LinearSite(3, "proj")


def layer_of(seed: int = 0, preset: str = "fp4", name: str = "proj") -> QuantizedLinear:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(6, 256, generator=generator) * 0.05
    site = LinearSite(3, name)  # type: ignore[arg-type]
    return quantize_linear(site, weight, weight[:, 0], load_quant(preset), terms=(2, 1))


@pytest.mark.parametrize(("preset", "name"), [("fp4", "proj"), ("fp4", "fc2"), ("fp6", "qkv")])
def test_all_groups_of_the_first_set_then_those_of_the_second(preset: str, name: str) -> None:
    layer = layer_of(1, preset, name)
    x = torch.randn(3, 256, generator=torch.Generator().manual_seed(2))
    acts = quantize_activations(to_fp16(x), layer.activation_format)
    y, sums = GoldenLinear(layer).multiply(acts, keep_sums=True)
    assert sums is not None and sums.shape[2] == 4 * (2 if layer.dual else 1)
    for r in range(3):
        scales = list(zip(acts.scale[r].tolist(), acts.scale_neg[r].tolist(), strict=True))
        for o in range(layer.outputs):
            total, expected_sums = Fraction(float(layer.bias[o])), []
            for weights in layer.sets:
                total, part = ref.result(
                    acts.codes[r].tolist(), scales, weights.codes[o].tolist(),
                    weights.scales[o].tolist(), float(total), weights.exponent,
                    layer.activation_format, layer.weight_format,
                )  # fmt: skip
                expected_sums += part
            assert sums[r, o].tolist() == expected_sums
            assert Fraction(float(y[r, o])) == total


def test_goes_on_from_sums_that_are_given() -> None:
    layer = layer_of()
    codes = np.zeros((2, 256), np.uint8)
    acts = ActivationCodes(codes, np.zeros((2, 2), np.uint16), np.zeros((2, 2), np.uint16))
    start = np.arange(12, dtype=np.float32).reshape(2, 6)
    y, _ = GoldenLinear(layer).multiply(acts, start=start)
    assert np.array_equal(y, start)


@pytest.mark.parametrize("seed", [None, 42])
def test_second_set_is_what_the_first_leaves_by_section_6(seed: int | None) -> None:
    weight = torch.randn(5, 256, generator=torch.Generator().manual_seed(3)) * 0.1
    fmt = get_format("E2M1")
    rotated = weight
    if seed is not None:
        signs = quantize_linear(SITE, weight, None, load_quant("fp4")).signs
        rotated = (signed_hadamard(weight.double(), signs) / 128**0.5).float()
    (codes, amax), (more, more_amax) = round_weight(SITE, weight, fmt, seed, terms=2)
    assert np.array_equal(codes, round_weight(SITE, weight, fmt, seed)[0][0])
    left = (rotated.double() - grid_values(torch.from_numpy(codes), amax, fmt)).float()
    again = round_weight(SITE, left, fmt, None)[0]
    assert np.array_equal(more, again[0]) and torch.equal(more_amax, again[1])
    both = grid_values(torch.from_numpy(codes), amax, fmt) + grid_values(
        torch.from_numpy(more), more_amax, fmt
    )
    assert (both - rotated.double()).norm() < 0.02 * rotated.norm()


def test_dequantized_is_the_sum_and_the_second_exponent_its_own() -> None:
    layer = layer_of(4)
    assert layer.second is not None and layer.second.exponent < layer.exponent
    first = replace(layer, second=None).dequantized()
    weight = torch.randn(6, 256, generator=torch.Generator().manual_seed(4)) * 0.05
    near = (layer.dequantized() - weight).norm() / (first - weight).norm()
    assert layer.terms == (2, 1) and near < 0.15


def test_an_exact_first_set_leaves_a_second_of_zeros() -> None:
    weight = torch.tensor([0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -6.0]).repeat(4, 16)
    layer = quantize_linear(SITE, weight, None, load_quant("fp4"), terms=(2, 1))
    assert layer.second is not None
    assert not layer.second.codes.any() and not layer.second.scales.any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"codes": np.full((6, 256), 8, np.uint8)}, r"block3\.proj: second weight code 0x8"),
        ({"codes": np.zeros((6, 128), np.uint8)}, r"second codes is uint8 \(6, 128\), expected"),
        ({"scales": np.full((6, 2), 0x7C00, np.uint16)}, "second weight scale pattern 0x7c00"),
        ({"exponent": 32}, r"second exponent 32 is outside -32\.\.31"),
    ],
    ids=["code", "shape", "scale", "exponent"],
)
def test_refuses_a_wrong_second_set(change: dict[str, object], message: str) -> None:
    layer = layer_of()
    assert layer.second is not None
    second = WeightSet(**(layer.second._asdict() | change))  # type: ignore[arg-type]
    with pytest.raises(QuantizationError, match=message):
        replace(layer, second=second)


def test_refuses_inputs_in_two_terms_in_a_dual_format() -> None:
    with pytest.raises(QuantizationError, match=r"block3\.fc2: inputs in two terms in a dual"):
        replace(layer_of(name="fc2"), input_terms=2)
    with pytest.raises(QuantizationError, match=r"terms are \(2, 3\); weights and inputs have 1"):
        replace(layer_of(), input_terms=3)
