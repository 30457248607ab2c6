# SPDX-License-Identifier: Apache-2.0
"""Weights to codes: rotation, exact codes, folded scales, exponent, bias rules."""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import Tensor

from lutvar.contract.formats import get_format
from lutvar.contract.hadamard import sign_vector
from lutvar.contract.quant_preset import GROUP, QuantConfig, load_quant
from lutvar.quant.formats.codec import encode_scalar
from lutvar.quant.ptq import (
    QuantizationError,
    quantize_linear,
    quantize_model,
)
from lutvar.quant.ptq.rotation import signed_hadamard, sylvester
from lutvar.quant.var.sites import SITE_NAMES, LinearSite
from support.quant import golden_reference as ref

PRESETS = ("fp4", "fp6")


def weight_of(outputs: int, inputs: int, seed: int, scale: float = 0.05) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(outputs, inputs, generator=generator) * scale


class Layers:
    """A stand-in for a transformer: one block of small linears."""

    def __init__(self, widths: dict[str, tuple[int, int]] | None = None) -> None:
        self.widths = widths or {
            "qkv": (24, 128),
            "proj": (8, 128),
            "fc1": (16, 128),
            "fc2": (8, 256),
        }

    def iter_sites(self) -> Iterator[tuple[LinearSite, Tensor, Tensor]]:
        for seed, name in enumerate(SITE_NAMES):
            weight = weight_of(*self.widths[name], seed=seed)
            yield LinearSite(0, name), weight, weight[:, 0] * 3


def test_sylvester_matrix_is_the_parity_of_common_bits() -> None:
    matrix = sylvester()
    for i in range(0, GROUP, 5):
        for j in range(GROUP):
            assert matrix[i, j].item() == (-1) ** (i & j).bit_count()
    with pytest.raises(ValueError, match="size 96"):
        sylvester(96)


def test_rotation_of_weight_and_activation_cancels() -> None:
    signs = sign_vector(42)
    x, w = weight_of(3, 256, 1, 1.0).double(), weight_of(5, 256, 2, 1.0).double()
    rotated = signed_hadamard(x, signs) @ signed_hadamard(w, signs).T / GROUP
    torch.testing.assert_close(rotated, x @ w.T, rtol=1e-12, atol=1e-12)
    one = torch.zeros(1, 256, dtype=torch.float64)
    one[0, 128 + 3] = 1
    spread = signed_hadamard(one, signs)
    assert torch.equal(spread[0, 128:], sylvester()[3] * signs[3])
    assert not spread[0, :128].any()


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("name", SITE_NAMES)
def test_codes_and_scales_follow_the_contract(preset: str, name: str) -> None:
    config = load_quant(preset)
    site, fmt = LinearSite(3, name), config.weight_format  # type: ignore[arg-type]
    weight = weight_of(5, 256, seed=4)
    weight[1, :128] = 0
    weight[2] *= 2.0**-30
    layer = quantize_linear(site, weight, None, config)
    rotated = weight
    if config.sites[name].rotate:
        signs = torch.tensor(sign_vector(42), dtype=torch.float64)
        blocks = (weight.double().view(5, 2, 128) * signs) @ sylvester() / math.sqrt(128)
        rotated = blocks.float().view(5, 256)
    activation = config.sites[name].format
    c = 1 / (activation.positive.top * fmt.positive.top)
    c *= 2.0**3.5 if config.sites[name].rotate else 1
    peaks = rotated.view(5, 2, 128).abs().amax(-1)
    for o in range(5):
        for g in range(2):
            peak = Fraction(float(peaks[o, g]))
            codes = layer.codes[o, 128 * g : 128 * (g + 1)].tolist()
            if peak == 0:
                assert set(codes) == {0} and layer.scales[o, g] == 0
                continue
            for j, code in enumerate(codes):
                value = Fraction(float(rotated[o, 128 * g + j]))
                assert code == encode_scalar(value * fmt.max_value() / peak, fmt)
            expected = np.float16(float(peaks[o, g]) * c * 2.0**-layer.exponent)
            assert layer.scales[o, g] == expected.view(np.uint16)
    assert 0x6400 <= layer.scales.max() < 0x6800, "largest scale in [2**10, 2**11)"
    assert 0 < layer.scales[2].max() < 0x400, "a scale 2**30 below is subnormal"
    assert layer.rotate == config.sites[name].rotate
    assert layer.activation_format is activation and layer.dual == activation.dual
    assert layer.name == f"block3.{name}"


def test_weight_ties_go_to_even_whatever_the_activations_do() -> None:
    config = load_quant("fp4").model_copy(update={"ties": "up"})
    weight = torch.zeros(1, 128)
    weight[0, :8] = torch.tensor([6.0, 0.25, 0.75, 2.5, 5.0, -0.25, -3.5, -5.0])
    layer = quantize_linear(LinearSite(0, "proj"), weight, None, config)
    values = [ref.grid(code, get_format("E2M1")) / 2 for code in layer.codes[0, :8].tolist()]
    assert values == [6.0, 0, 1.0, 2.0, 4.0, 0, -4.0, -4.0]
    assert layer.ties == "up"


@pytest.mark.parametrize("preset", PRESETS)
def test_dequantized_weight_is_close(preset: str) -> None:
    config = load_quant(preset)
    weight = weight_of(16, 256, seed=5)
    for name, limit in (("proj", 0.15), ("fc2", 0.15)):
        layer = quantize_linear(LinearSite(0, name), weight, None, config)  # type: ignore[arg-type]
        error = float((layer.dequantized() - weight).norm() / weight.norm())
        assert error < limit / (4 if preset == "fp6" else 1)


def folded(peak: float, config: QuantConfig) -> tuple[int, int]:
    """Exponent and scale pattern of a one-row layer with that absolute maximum."""
    weight = torch.zeros(1, 128)
    weight[0, 0] = peak
    layer = quantize_linear(LinearSite(0, "proj"), weight, None, config)
    return layer.exponent, int(layer.scales[0, 0])


def test_exponent_choice_at_its_boundaries() -> None:
    config = load_quant("fp4")  # proj: c = 1/144
    assert folded(144.0, config) == (-10, 0x6400)
    below = float(np.nextafter(np.float32(144), np.float32(0)))
    # Just below 2**11 after scaling: rounding would give 2**11, so e is one larger.
    assert folded(below, config) == (-10, 0x6400)
    assert folded(144 * 2047.4 / 2048, config) == (-11, 0x67FF)
    assert folded(0.0, config) == (0, 0)
    assert folded(144 * 2.0**-22, config) == (-32, 0x6400)
    assert folded(144 * 2.0**-30, config) == (-32, 0x4400), "e stops at -32"
    assert folded(144 * 2.0**41, config) == (31, 0x6400)
    with pytest.raises(QuantizationError, match=r"block0\.proj: the largest folded.*exponent 31"):
        folded(144 * 2.0**42, config)


def test_bias_rules() -> None:
    config, site, weight = load_quant("fp4"), LinearSite(1, "fc1"), weight_of(6, 128, 6)
    bias = torch.tensor([2.0**64, -(2.0**64), 2.0**-80, -(2.0**-81), 2.0**-100, -0.0])
    layer = quantize_linear(site, weight, bias, config)
    assert layer.bias.tolist() == [2.0**64, -(2.0**64), 2.0**-80, 0.0, 0.0, 0.0]
    assert not np.signbit(layer.bias[3:]).any()
    above = float(np.nextafter(np.float32(2.0**64), np.float32(np.inf)))
    for value in (above, math.inf, math.nan):
        bad = torch.zeros(6)
        bad[4] = value
        with pytest.raises(QuantizationError, match=r"block1\.fc1: bias\[4\] is"):
            quantize_linear(site, weight, bad, config)
    assert not quantize_linear(site, weight, None, config).bias.any()


def test_bad_weights_are_refused_by_name() -> None:
    config, site = load_quant("fp6"), LinearSite(2, "qkv")
    with pytest.raises(QuantizationError, match=r"block2\.qkv: input width 192 is not a multiple"):
        quantize_linear(site, torch.ones(4, 192), None, config)
    weight = weight_of(4, 128, 7)
    weight[2, 9] = math.nan
    with pytest.raises(
        QuantizationError, match=r"block2\.qkv: weight: value nan at index \(2, 9\)"
    ):
        quantize_linear(site, weight, None, config)
    narrow = Layers({"qkv": (4, 128), "proj": (4, 128), "fc1": (4, 128), "fc2": (4, 200)})
    with pytest.raises(QuantizationError, match=r"block0\.fc2: input width 200"):
        quantize_model(narrow, config)


def test_large_layers_are_cut_without_effect() -> None:
    config, weight = load_quant("fp4"), weight_of(40, 1024, 8)
    whole = quantize_linear(LinearSite(0, "fc1"), weight.repeat(60, 1), None, config)
    part = quantize_linear(LinearSite(0, "fc1"), weight, None, config)
    np.testing.assert_array_equal(whole.codes, np.tile(part.codes, (60, 1)))
    np.testing.assert_array_equal(whole.scales, np.tile(part.scales, (60, 1)))
