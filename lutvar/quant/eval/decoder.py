# SPDX-License-Identifier: Apache-2.0
"""How near the decoder at code level is to the float one: pixels, and distances of samples."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lutvar.contract.decoder import DecoderShape
from lutvar.contract.decoder_form import DecoderForm
from lutvar.contract.quant_preset import QuantConfig
from lutvar.contract.shape import PATCH_NUMS_256
from lutvar.quant.golden.decoder import GoldenDecoder, quantize_decoder
from lutvar.quant.models import LoadedModel
from lutvar.quant.models.judge import features_in_parts
from lutvar.quant.var import Vqvae, VqvaeConfig
from lutvar.quant.var.passes import FloatTransformer, generate_passes

from .frechet import distance, gaussian, need_samples
from .intervals import Interval, interval
from .reference import load_reference

#: Latent maps to images in [0, 1].
Decode = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Case:
    """A decoder and what it is to decode.

    Attributes:
        vqvae: the float tokenizer.
        latents_BZHW: latent maps.
    """

    vqvae: Vqvae
    latents_BZHW: Tensor


def sampled(model: LoadedModel, count: int, seed: int) -> Tensor:
    """Latent maps [count, Z, h, w] of a model's own samples, classes in turn, drawn in float."""
    found: list[Tensor] = []

    def keep(latent_BZHW: Tensor) -> Tensor:
        found.append(latent_BZHW)
        return latent_BZHW[:, :1]

    info = model.info
    labels = [i % len(info.classes) for i in range(count)]
    generate_passes(
        model.var, model.vqvae, FloatTransformer(model.var), labels,
        [seed + i for i in range(count)], cfg=info.cfg, top_k=info.top_k, top_p=info.top_p,
        decode=keep,
    )  # fmt: skip
    return torch.cat(found)


@torch.no_grad()
def official(side: int, count: int, seed: int) -> Case:
    """The released tokenizer's architecture with random weights, and random tokens.

    Args:
        side: of the latent map; 16 makes images of 256 pixels.
        count: images.
        seed: of weights and tokens.

    Raises:
        ConfigError: lines that rows do not divide.
    """
    scales = (*(p for p in PATCH_NUMS_256 if p < side), side)
    DecoderShape.official(scales)  # ConfigError first: the rest takes seconds
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        vqvae = Vqvae(VqvaeConfig.official(scales)).eval()
        tokens = [torch.randint(vqvae.config.vocab, (count, p * p)) for p in scales]
    return Case(vqvae, vqvae.quantize.decode(tokens))


@dataclass(frozen=True)
class Pixels:
    """Figures of one form.

    Attributes:
        preset, form: names.
        psnr_db: of images in [0, 1], before they become bytes, against the float decoder's.
    """

    preset: str
    form: str
    psnr_db: float


@torch.no_grad()
def pixels(
    case: Case,
    forms: Sequence[tuple[QuantConfig, DecoderForm]],
    progress: Callable[[int, int], None] | None = None,
) -> list[Pixels]:
    """PSNR of each form against float."""
    expected, rows = case.vqvae.to_image(case.latents_BZHW), []
    for number, (preset, form) in enumerate(forms):
        decode = GoldenDecoder(quantize_decoder(case.vqvae, preset, form))
        rows.append(Pixels(preset.name, form.name, psnr(expected, decode(case.latents_BZHW))))
        if progress is not None:
            progress(number + 1, len(forms))
    return rows


def psnr(expected: Tensor, found: Tensor) -> float:
    """Peak signal to noise ratio of values in [0, 1], in dB; infinite when equal."""
    error = float((expected.double() - found.double()).square().mean())
    return -10 * math.log10(error) if error else math.inf


@dataclass(frozen=True)
class Samples:
    """Fréchet distance to real images, over seeds.

    Attributes:
        decoder: "float", or preset and form.
        frechet: the distance.
        change: from the float decoder's with the same latent maps; None for that one.
    """

    decoder: str
    frechet: Interval
    change: Interval | None


@torch.no_grad()
def frechet(
    model: LoadedModel,
    forms: Sequence[tuple[QuantConfig, DecoderForm]],
    count: int,
    seeds: Sequence[int],
    progress: Callable[[int, int], None] | None = None,
) -> list[Samples]:
    """Fréchet distance of the same samples, decoded in float and in each form.

    Args:
        model: with classifier and reference statistics.
        forms: presets and forms.
        count: images of a seed; more than the classifier has features.
        seeds: first seed of the images of each run.
        progress: called as progress(done, all).

    Raises:
        ModelError: no classifier or reference. ValueError: too few images.
    """
    judge, reference = model.classifier(), load_reference(model)
    need_samples(count, judge.width)
    decoders: dict[str, Decode] = {"float": model.vqvae.to_image}
    for preset, form in forms:
        quantized = quantize_decoder(model.vqvae, preset, form)
        decoders[f"{preset.name} {form.name}"] = GoldenDecoder(quantized)
    values: dict[str, list[float]] = {name: [] for name in decoders}
    for number, seed in enumerate(seeds):
        latents = sampled(model, count, seed)
        for done, (name, decode) in enumerate(decoders.items(), 1):
            features = features_in_parts(judge, decode(latents))
            values[name].append(distance(gaussian(features), reference.test))
            if progress is not None:
                progress(number * len(decoders) + done, len(seeds) * len(decoders))
    rows = []
    for name, found in values.items():
        change = [a - b for a, b in zip(found, values["float"], strict=True)]
        rows.append(Samples(name, interval(found), None if name == "float" else interval(change)))
    return rows
