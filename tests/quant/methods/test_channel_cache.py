# SPDX-License-Identifier: Apache-2.0
"""The cache with bits by channel, against a computation by hand in numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lutvar.quant.methods import Recipe, calibration_set, load_recipe, quantize_var
from lutvar.quant.methods.attention.channel_cache import (
    ChannelCache,
    ChannelCacheSpec,
    by_channel,
    quantized_keys,
)
from lutvar.quant.methods.calibration.samples import replay
from lutvar.quant.methods.hardware.report import hardware
from lutvar.quant.models import load_model


def on_levels(column: np.ndarray, bits: float) -> np.ndarray:
    """The nearest of even levels between the extremes, value by value."""
    levels = np.linspace(column.min(), column.max(), round(2**bits))
    return np.array([levels[np.abs(levels - value).argmin()] for value in column])


def keys(tokens: int, channels: int = 8) -> torch.Tensor:
    torch.manual_seed(tokens)
    spread = torch.linspace(0.2, 3, channels)[torch.randperm(channels)]
    return torch.randn(2, 3, tokens, channels) * spread + 1


@pytest.mark.parametrize("bits", [1, 1.58, 2, 4])
def test_levels_by_hand(bits: float) -> None:
    x = keys(9)
    found = by_channel(x, bits)
    for b, h, c in np.ndindex(2, 3, 8):
        wanted = on_levels(x[b, h, :, c].double().numpy(), bits)
        assert np.allclose(found[b, h, :, c].numpy(), wanted, atol=1e-5)


@pytest.mark.parametrize("tokens", [1, 4, 9])
def test_wide_channels_get_more_bits(tokens: int) -> None:
    x = keys(tokens)
    found = quantized_keys(x, ChannelCacheSpec(wide=3, narrow=1, share=0.25))
    for b, h in np.ndindex(2, 3):
        columns = x[b, h].double().numpy()
        wide = np.argsort(-np.ptp(columns, axis=0), kind="stable")[:2]
        for c in range(8):
            if c in wide:
                wanted = on_levels(columns[:, c], 3)
            else:
                spectrum = np.fft.rfft(columns[:, c], norm="ortho")
                parts = on_levels(spectrum.real, 1) + 1j * on_levels(spectrum.imag, 1)
                wanted = np.fft.irfft(parts, n=tokens, norm="ortho")
            assert np.allclose(found[b, h, :, c].numpy(), wanted, atol=1e-4)


def test_a_step_is_quantized_when_it_is_over() -> None:
    cache, first, second = ChannelCache(ChannelCacheSpec()), keys(4), keys(9)
    k, v = cache.append(first, first)
    assert torch.equal(k, first) and torch.equal(v, first)
    k, v = cache.append(second, second)
    assert torch.equal(k[:, :, 4:], second)
    assert torch.equal(k[:, :, :4], quantized_keys(first, ChannelCacheSpec()))
    assert torch.equal(v[:, :, :4], by_channel(first, 1.58))
    assert ChannelCacheSpec(share=0.5).mean_bits == (1.5, 1.58)
    plain = ChannelCache(ChannelCacheSpec(), values=False)
    plain.append(first, first)
    assert torch.equal(plain.append(second, second)[1][:, :, :4], first)


def test_more_bits_are_better_and_hardware_says_no() -> None:
    model = load_model("digits")
    given = calibration_set(model.var, model.vqvae, 4, seed=3)
    plain = torch.cat(replay(model.var, given), 1)
    errors = []
    for settings in (
        {},
        {"wide": 4, "narrow": 2, "values": 3},
        {"wide": 8, "narrow": 6, "values": 8},
    ):
        recipe = Recipe(name="r", channel_cache=ChannelCacheSpec(**settings))
        quantized = quantize_var(model.var, recipe)
        with quantized.installed(model.var) as var:
            logits = torch.cat(replay(var, given), 1)
        errors.append(float((logits - plain).norm() / plain.norm()))
    assert errors[2] < 0.2 * errors[1] < 0.2 * errors[0] < 0.2
    assert any("bits by channel" in text for text in hardware(quantized, model.var).missing)
    for name in ("fpqvar-fp4-vidkv", "fpqvar-fp4-vidkv4"):
        assert load_recipe(name).channel_cache is not None
    with pytest.raises(ValueError, match="cache and channel_cache both say"):
        Recipe.model_validate(
            {"name": "r", "cache": {"format": "E2M3", "group": "row"}, "channel_cache": {}}
        )
