# SPDX-License-Identifier: Apache-2.0
"""The image tokenizer: images <-> token maps of all scales.

Images are in [-1, 1] on the encoder side and the raw decoder side; `to_image`
gives [0, 1].

Source: VAR (arXiv:2404.02905), section 3.2.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from .autoencoder import Decoder, Encoder, conv3
from .config import VqvaeConfig
from .quantizer import MultiScaleQuantizer


class VqvaeOutput(NamedTuple):
    """Result of a training pass."""

    reconstruction_BCHW: Tensor
    vq_loss: Tensor
    tokens: list[Tensor]


class Vqvae(nn.Module):
    """Encoder, multi-scale quantizer, decoder."""

    def __init__(self, config: VqvaeConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.quantize = MultiScaleQuantizer(config)
        self.quant_conv = conv3(config.z_channels, config.z_channels)
        self.post_quant_conv = conv3(config.z_channels, config.z_channels)

    def forward(self, image_BCHW: Tensor) -> VqvaeOutput:
        """Training pass: unclamped reconstruction, codebook and commitment loss, tokens.

        Args:
            image_BCHW: [B, in_channels, image_size, image_size] in [-1, 1].
        """
        coded = self.quantize(self.features(image_BCHW))
        image = self.decoder(self.post_quant_conv(coded.f_hat_BZHW))
        return VqvaeOutput(image, coded.vq_loss, coded.tokens)

    def features(self, image_BCHW: Tensor) -> Tensor:
        """Latent map before quantization, [B, z_channels, p_last, p_last]."""
        size = self.config.image_size
        want = (self.config.in_channels, size, size)
        if image_BCHW.dim() != 4 or tuple(image_BCHW.shape[1:]) != want:
            raise ValueError(f"images of shape {tuple(image_BCHW.shape)}: expected [B, {want}]")
        return self.quant_conv(self.encoder(image_BCHW))

    @torch.no_grad()
    def encode(self, image_BCHW: Tensor) -> list[Tensor]:
        """Tokens of images in [-1, 1]: per scale a LongTensor [B, p*p]."""
        return self.quantize.encode(self.features(image_BCHW))

    def to_image(self, f_hat_BZHW: Tensor) -> Tensor:
        """Image in [0, 1], [B, in_channels, image_size, image_size], of a latent map."""
        image = self.decoder(self.post_quant_conv(f_hat_BZHW)).clamp(-1, 1)
        return (image + 1) * 0.5

    @torch.no_grad()
    def decode(self, tokens: list[Tensor]) -> Tensor:
        """Image in [0, 1] of token maps given per scale as [B, p*p]."""
        return self.to_image(self.quantize.decode(tokens))
