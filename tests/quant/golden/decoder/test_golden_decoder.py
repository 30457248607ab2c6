# SPDX-License-Identifier: Apache-2.0
"""The whole decoder: shipped models, the released architecture, what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lutvar.contract.decoder_form import get_form, shipped_form
from lutvar.contract.errors import ConfigError
from lutvar.contract.quant_preset import load_quant
from lutvar.quant.eval.decoder import Case, frechet, official, pixels, psnr, sampled
from lutvar.quant.golden.decoder import GoldenDecoder, decoder_shape, quantize_decoder
from lutvar.quant.models import load_model
from lutvar.quant.ptq.weights import QuantizationError
from lutvar.quant.var import Vqvae, VqvaeConfig


def case(name: str, images: int) -> Case:
    model = load_model(name)
    return Case(model.vqvae, sampled(model, images, 5))


@pytest.mark.parametrize("name", ["digits", "cifar10"])
def test_what_ships_is_within_40_db(name: str) -> None:
    found = case(name, 6)
    presets = [load_quant("fp4"), load_quant("fp6")]
    rows = pixels(found, [(preset, shipped_form(preset)) for preset in presets])
    assert [r.form for r in rows] == ["two-rotated", "graded"]
    assert all(r.psnr_db > 40 for r in rows), rows


def test_more_terms_are_nearer() -> None:
    names = ("one", "straight", "coarse", "graded", "two")
    rows = pixels(case("digits", 6), [(load_quant("fp6"), get_form(n)) for n in names])
    values = [r.psnr_db for r in rows]
    assert values == sorted(values) and values[0] > 34 and values[-1] > 60


@pytest.mark.slow
def test_the_released_architecture() -> None:
    """64 pixels to a side instead of 256; every channel count there is."""
    found = official(4, 1, 0)
    assert decoder_shape(found.vqvae).image_side == 64
    (row,) = pixels(found, [(load_quant("fp6"), get_form("graded"))])
    assert row.psnr_db > 40


def test_images_are_the_same_alone_and_together() -> None:
    found = case("digits", 3)
    decode = GoldenDecoder(quantize_decoder(found.vqvae, load_quant("fp4")))
    together = decode(found.latents_BZHW)
    for i in range(3):
        assert torch.equal(decode(found.latents_BZHW[i : i + 1])[0], together[i])
    assert together.shape == (3, 1, 8, 8) and together.min() >= 0 and together.max() <= 1


def test_a_batch_larger_than_its_share(monkeypatch: pytest.MonkeyPatch) -> None:
    from lutvar.quant.golden.decoder import decoder

    found = case("digits", 3)
    decode = GoldenDecoder(quantize_decoder(found.vqvae, load_quant("fp4")))
    together = decode(found.latents_BZHW)
    monkeypatch.setattr(decoder, "_PIXELS", 128)
    assert torch.equal(decode(found.latents_BZHW), together)


def test_latent_maps_that_do_not_fit_are_refused() -> None:
    decode = GoldenDecoder(quantize_decoder(load_model("digits").vqvae, load_quant("fp4")))
    with pytest.raises(ValueError, match=r"latent map of shape \(1, 8, 5, 5\): this decoder takes"):
        decode(torch.zeros(1, 8, 5, 5))
    latents = torch.zeros(1, 8, 4, 4)
    latents[0, 1, 2, 3] = torch.inf
    with pytest.raises(ValueError, match=r"latent map: value inf at \(0, 1, 2, 3\) is not finite"):
        decode(latents)


def test_tokenizers_that_do_not_fit_are_refused() -> None:
    odd = Vqvae(VqvaeConfig(96, 8, 32, (1, 2, 3), (1, 1), 1, 1))
    with pytest.raises(ConfigError, match="lines of 3 pixels; must be a multiple of 4"):
        quantize_decoder(odd, load_quant("fp4"))
    broken = Vqvae(VqvaeConfig(96, 8, 32, (1, 2, 4), (1, 1), 1, 1))
    with torch.no_grad():
        broken.decoder.norm_out.bias[3] = torch.nan
    with pytest.raises(QuantizationError, match=r"decoder\.norm_out: a weight is not finite"):
        quantize_decoder(broken, load_quant("fp4"))


def test_psnr() -> None:
    a, b = torch.zeros(1, 1, 10, 10), torch.zeros(1, 1, 10, 10)
    assert psnr(a, b) == np.inf
    b[0, 0, 0, 0] = 1
    assert psnr(a, b) == pytest.approx(20)


def test_frechet_of_the_same_samples() -> None:
    model = load_model("digits")
    forms = [(load_quant("fp6"), get_form("two"))]
    counts: list[tuple[int, int]] = []
    rows = frechet(model, forms, 65, [0, 65], lambda done, total: counts.append((done, total)))
    assert [r.decoder for r in rows] == ["float", "fp6 two"]
    assert counts == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert rows[0].change is None and rows[1].change is not None
    assert abs(rows[1].change.mean) < 0.02 * rows[0].frechet.mean
    with pytest.raises(ValueError, match="samples for"):
        frechet(model, forms, 2, [0])
