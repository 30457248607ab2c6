# SPDX-License-Identifier: Apache-2.0
"""A decoder as the accelerator runs it, from the tokenizer's weights (offline)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import numpy as np
from torch import nn

from lutvar.contract.accelerator import AcceleratorConfig
from lutvar.contract.decoder import Conv, DecoderShape, Norm
from lutvar.contract.decoder_form import DecoderForm, shipped_form
from lutvar.contract.decoder_memory import check_decoder
from lutvar.contract.quant_preset import QuantConfig
from lutvar.quant.golden.pointwise import Float32
from lutvar.quant.ptq.weights import QuantizationError
from lutvar.quant.var.vqvae import Vqvae

from .weights import ConvWeights, quantize_conv


@dataclass(frozen=True, eq=False)
class NormWeights:
    """Weight and bias [C] float32 of a group norm, and its epsilon."""

    weight: Float32
    bias: Float32
    eps: float


@dataclass(frozen=True, eq=False)
class QuantizedDecoder:
    """A decoder at code level.

    Attributes:
        shape: sizes and steps.
        form: terms and rotation.
        convolutions, norms: by name.
    """

    shape: DecoderShape
    form: DecoderForm
    convolutions: Mapping[str, ConvWeights]
    norms: Mapping[str, NormWeights]


def decoder_shape(vqvae: Vqvae) -> DecoderShape:
    """Sizes of a tokenizer's decoder. Raises ConfigError for ones that do not fit."""
    config = vqvae.config
    return DecoderShape(
        z_channels=config.z_channels,
        ch=config.ch,
        ch_mult=config.ch_mult,
        blocks=config.num_res_blocks + 1,
        image_channels=config.in_channels,
        latent_side=config.patch_nums[-1],
    )


def quantize_decoder(
    vqvae: Vqvae, preset: QuantConfig, form: DecoderForm | None = None
) -> QuantizedDecoder:
    """Quantize all convolutions of a tokenizer's decoder (the tokenizer is not changed).

    Args:
        vqvae: the float tokenizer.
        preset: formats.
        form: terms and rotation; default: what ships for the formats.

    Raises:
        ConfigError: channels or sizes that do not fit.
        QuantizationError: a weight that the device cannot take; names it.
    """
    shape, form = decoder_shape(vqvae), form or shipped_form(preset)
    modules = dict(vqvae.named_modules())
    convolutions, norms = {}, {}
    for step in shape.steps:
        if isinstance(step, Conv):
            shortcut = modules[step.shortcut_name] if step.shortcut else None
            convolutions[step.name] = quantize_conv(
                step, cast(nn.Conv2d, modules[step.name]), cast("nn.Conv2d | None", shortcut),
                preset, form.terms(shape, step), form.rotate,
            )  # fmt: skip
        elif isinstance(step, Norm) and step.name:
            norms[step.name] = _norm(step.name, cast(nn.GroupNorm, modules[step.name]))
    return QuantizedDecoder(shape, form, convolutions, norms)


def decoder_for(vqvae: Vqvae, config: AcceleratorConfig) -> QuantizedDecoder:
    """A tokenizer's decoder in the form that ships for an accelerator.

    Raises:
        ConfigError: channels or sizes that the accelerator cannot take.
        QuantizationError: a weight that the device cannot take; names it.
    """
    preset = config.quant_config
    check_decoder(decoder_shape(vqvae), shipped_form(preset), config)
    return quantize_decoder(vqvae, preset)


def _norm(name: str, module: nn.GroupNorm) -> NormWeights:
    weight, bias = (x.detach().cpu().float().numpy() for x in (module.weight, module.bias))
    if not (np.isfinite(weight).all() and np.isfinite(bias).all()):
        raise QuantizationError(f"{name}: a weight is not finite; the tokenizer is damaged")
    return NormWeights(weight, bias, module.eps)
