# SPDX-License-Identifier: Apache-2.0
"""Maps, windows and convolutions: against torch in float, and literally with integers."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lutvar.contract.decoder import Conv, stored_channels
from lutvar.contract.decoder_host import need_finite
from lutvar.contract.quant_preset import load_quant
from lutvar.contract.terms import Terms
from lutvar.quant.golden.decoder.convolution import GoldenConvolution
from lutvar.quant.golden.decoder.maps import ActivatedMap
from lutvar.quant.golden.decoder.weights import Tap, part_matrices, quantize_conv, unrolled
from lutvar.quant.golden.fp16 import values_of
from lutvar.quant.ptq.weights import QuantizationError
from support.quant import golden_reference as ref


def halves(seed: int, *shape: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.standard_normal(shape) * np.exp2(rng.integers(-3, 4, shape))).astype(np.float16)


def module(conv: Conv, seed: int, taps: int | None = None, inputs: int = 0) -> nn.Conv2d:
    taps = taps or conv.taps
    found = nn.Conv2d(inputs or conv.inputs, conv.outputs, taps, padding=taps // 2)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in found.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return found


CASES = [
    Conv("a", "a", "x", 32, 32, 4),
    Conv("wide", "a", "x", 32, 640, 4),
    Conv("official", "a", "x", 160, 160, 4),
    Conv("half", "a", "x", 320, 160, 4),
    Conv("middle", "a", "x", 320, 320, 4),
    Conv("few", "a", "x", 8, 3, 8),
    Conv("double", "a", "x", 160, 160, 4, double=True),
    Conv("double wide", "a", "x", 64, 64, 4, double=True),
    Conv("double widest", "a", "x", 128, 640, 2, double=True),
    Conv("point", "a", "q", 64, 192, 4, taps=1),
    Conv("point wide", "a", "q", 160, 480, 4, taps=1),
    Conv("short", "a", "x", 64, 32, 8, shortcut="c", shortcut_name="s", shortcut_inputs=96),
    Conv("residual", "a", "x", 32, 32, 8, residual="x"),
]


@pytest.mark.parametrize("conv", CASES, ids=lambda c: c.name.replace(" ", "-"))
def test_parts_make_the_convolution(conv: Conv) -> None:
    """Float windows times float matrices, in float64, are torch's convolution."""
    values = halves(1, 2, conv.side, conv.side, conv.inputs)
    weights = module(conv, 2)
    source = ActivatedMap(values)
    windows = values_of(np.ascontiguousarray(source.windows(conv.span, conv.taps, conv.groups)))
    matrices = [m.double() for m in part_matrices(conv, weights.weight)]
    above = conv.taps // 2
    lines = []
    for parts in conv.parts:
        total = sum(
            windows[:, above + line : above + line + conv.side].double() @ matrices[index].T
            for line, index in parts
        )
        assert isinstance(total, torch.Tensor)
        lines.append(total.reshape(2, conv.side, -1))
    side = conv.side * (2 if conv.double else 1)
    found = torch.stack(lines, 2).reshape(2, side, side, stored_channels(conv.outputs))
    x = torch.from_numpy(values).double().permute(0, 3, 1, 2)
    if conv.double:
        x = F.interpolate(x, scale_factor=2.0, mode="nearest")
    expected = F.conv2d(x, weights.weight.detach().double(), padding=above).permute(0, 2, 3, 1)
    assert (found[..., conv.outputs :] == 0).all()
    error = (found[..., : conv.outputs] - expected).abs().max() / expected.abs().max()
    assert error < (1e-7 if conv.double else 1e-14)  # sums of weights are rounded to float32


@pytest.mark.parametrize("conv", CASES, ids=lambda c: c.name.replace(" ", "-"))
def test_two_terms_in_fp6_are_near_float(conv: Conv) -> None:
    """Bias, shortcut and residual are where they belong; the noise is that of 10 bits."""
    values, other = halves(3, 1, conv.side, conv.side, conv.inputs), halves(4, 1, 8, 8, 96)
    weights = module(conv, 5)
    shortcut = module(conv, 6, 1, conv.shortcut_inputs) if conv.shortcut else None
    side = conv.side * (2 if conv.double else 1)
    before = np.zeros((1, side, side, stored_channels(conv.outputs)), np.float32)
    before[..., : conv.outputs] = halves(7, 1, side, side, conv.outputs)
    golden = GoldenConvolution(
        quantize_conv(conv, weights, shortcut, load_quant("fp6"), Terms(2, 2))
    )
    found = golden(
        ActivatedMap(values),
        ActivatedMap(other) if conv.shortcut else None,
        before if conv.residual else None,
    )
    with torch.no_grad():
        x = torch.from_numpy(values).float().permute(0, 3, 1, 2)
        expected = weights(F.interpolate(x, scale_factor=2.0) if conv.double else x)
        if shortcut is not None:
            expected = expected + shortcut(torch.from_numpy(other).float().permute(0, 3, 1, 2))
    expected = expected.permute(0, 2, 3, 1).numpy()
    if conv.residual:
        expected = expected + before[..., : conv.outputs]
    assert (found[..., conv.outputs :] == 0).all()
    noise = np.square(found[..., : conv.outputs] - expected).mean() / np.square(expected).mean()
    assert noise < 1e-5


@pytest.mark.parametrize("preset", ["fp4", "fp6"])
@pytest.mark.parametrize("conv", [CASES[0], CASES[7]], ids=["plain", "double"])
def test_every_pixel_with_integers_and_fractions(preset: str, conv: Conv) -> None:
    """One term: windows by hand from a list of pixels, then sections 4 and 5 literally."""
    config = load_quant(preset)
    fmt, weight_fmt = config.plain_format, config.weight_format
    values = halves(8, 1, conv.side, conv.side, conv.inputs)
    weights = quantize_conv(conv, module(conv, 9), None, config)
    found = GoldenConvolution(weights)(ActivatedMap(values))[0]
    side, width = conv.side, conv.side + 2
    memory = [0] * (width * width * conv.inputs + 128)
    for y in range(side):
        for x in range(side):
            first = ((y + 1) * width + x + 1) * conv.inputs
            memory[first : first + conv.inputs] = values[0, y, x].view(np.uint16).tolist()
    rng = np.random.default_rng(10)
    for _ in range(24):
        y, row, half = (int(rng.integers(n)) for n in (side, conv.rows, len(conv.parts)))
        column = int(rng.integers(conv.columns))
        total = Fraction(0)
        for number, (line, index) in enumerate(conv.parts[half]):
            first = ((y + 1 + line) * width + row * conv.span) * conv.inputs
            codes, scales = [], []
            for g in range(conv.groups):
                group = memory[first + 128 * g : first + 128 * (g + 1)]
                code, m, m_neg = ref.quantize_group(group, fmt, "even")
                codes += code
                scales.append((m, m_neg))
            layer = weights.parts[index]
            start = Fraction(float(layer.bias[column])) if number == 0 else total
            total, _ = ref.result(
                codes, scales, layer.codes[column].tolist(), layer.scales[column].tolist(),
                float(start), layer.exponent, fmt, weight_fmt,
            )  # fmt: skip
        double = 2 if conv.double else 1
        pixel, channel = divmod(column, stored_channels(conv.outputs))
        x = row * conv.span * double + pixel
        assert Fraction(float(found[double * y + half, x, channel])) == total


def test_windows_read_on_into_the_next_pixels_and_lines() -> None:
    source = ActivatedMap(np.arange(1, 4 * 4 * 32 + 1, dtype=np.float16).reshape(1, 4, 4, 32))
    flat = source.patterns.view(np.float16)[0]
    windows = source.windows(4, 3, 2)
    assert windows.shape == (1, 6, 1, 256)
    for line in range(6):
        start = line * 6 * 32
        np.testing.assert_array_equal(
            windows[0, line, 0].view(np.float16), flat[start : start + 256]
        )
    assert (windows[0, 1, 0, :32] == 0).all()  # the border
    assert (windows[0, 5] == 0).all()  # the line below, and behind the map
    np.testing.assert_array_equal(source.pixels()[0, 2, 3], flat[(3 * 6 + 4) * 32 :][:32])
    points = source.windows(4, 1, 1)
    assert points.shape == (1, 4, 1, 128)
    np.testing.assert_array_equal(points[0, 2, 0].view(np.float16), flat[(3 * 6 + 1) * 32 :][:128])


def test_channels_are_padded_with_zeros() -> None:
    source = ActivatedMap(halves(0, 1, 4, 4, 8))
    assert source.channels == 32
    assert (source.pixels()[..., 8:] == 0).all() and (source.pixels()[..., :8] != 0).any()
    matrix = unrolled([Tap(1, 2, torch.ones(3, 8))], 128, 1)
    assert matrix.sum() == 24 and (matrix[32:35, 64:72] == 1).all()


def test_what_is_not_finite_is_refused_by_name() -> None:
    values = np.zeros((1, 2, 2, 4), np.float32)
    values[0, 1, 0, 3] = np.nan
    with pytest.raises(ValueError, match=r"conv: value nan at \(0, 1, 0, 3\) is not finite"):
        need_finite("conv", values)
    conv = CASES[0]
    for name, parameter in module(conv, 0).named_parameters():
        broken = module(conv, 0)
        with torch.no_grad():
            dict(broken.named_parameters())[name].view(-1)[5] = torch.inf
        with pytest.raises(QuantizationError, match=r"^a"):
            quantize_conv(conv, broken, None, load_quant("fp4"))
        assert parameter.isfinite().all()
