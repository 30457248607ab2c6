# SPDX-License-Identifier: Apache-2.0
"""Small decoders of random weights, packed behind a small transformer."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch

from lutvar.contract.accelerator import AcceleratorConfig
from lutvar.contract.decoder_form import get_form
from lutvar.host.compile.pack import pack_transformer
from lutvar.host.compile.packed import PackedTransformer
from lutvar.quant.golden.decoder import QuantizedDecoder, quantize_decoder
from lutvar.quant.var import Vqvae, VqvaeConfig

from .compile_cases import accelerator, transformer


@cache
def vqvae(
    ch: int = 32,
    ch_mult: tuple[int, ...] = (1, 2),
    side: int = 4,
    z_channels: int = 8,
    image_channels: int = 3,
    blocks: int = 2,
) -> Vqvae:
    """Weights and biases of all layers are random, those of norms too."""
    torch.manual_seed(3)
    made = Vqvae(
        VqvaeConfig(96, z_channels, ch, (1, 2, side), ch_mult, blocks - 1, image_channels)
    ).eval()
    with torch.no_grad():
        for module in made.modules():
            if isinstance(module, torch.nn.GroupNorm):
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0, 0.3)
    return made


def quantized(config: AcceleratorConfig, form: str, of: Vqvae | None = None) -> QuantizedDecoder:
    """A decoder in an accelerator's formats."""
    return quantize_decoder(of or vqvae(), config.quant_config, get_form(form))


def packed(config: AcceleratorConfig, decoder: QuantizedDecoder) -> PackedTransformer:
    """Behind a transformer of random weights."""
    model = transformer("small-fp6" if config.quant == "fp6" else "small-fp4")
    return pack_transformer(model, config, model={"name": "test"}, decoder=decoder)


def latents(decoder: QuantizedDecoder, images: int, seed: int = 5) -> np.ndarray:
    """Random latent maps [B, Z, h, w] float32."""
    shape = decoder.shape
    size = images, shape.z_channels, shape.latent_side, shape.latent_side
    return np.random.default_rng(seed).standard_normal(size).astype(np.float32)


__all__ = ["accelerator", "latents", "packed", "quantized", "vqvae"]
