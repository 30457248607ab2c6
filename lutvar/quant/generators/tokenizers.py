# SPDX-License-Identifier: Apache-2.0
"""Image tokenizers with one token map: MaskGIT-VQGAN of RAR, VQ-16 of PAR.

Both are built from the layers of VAR's autoencoder. VQ-16 has its encoder and decoder; the codebook
has unit vectors, and 1x1 convolutions lead to its few channels and back. MaskGIT-VQGAN has no
attention, convolutions without bias in its residual blocks and pooling in place of strides.

Sources: MaskGIT (arXiv:2202.04200) as released with RAR (arXiv:2411.00776); LlamaGen
(arXiv:2406.06525) as released with PAR (arXiv:2412.15119).
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lutvar.quant.var.autoencoder import (
    Decoder,
    Encoder,
    Level,
    ResBlock,
    Upsample,
    conv3,
    group_norm,
)

from .config import TokenizerConfig


class MaskGitBlock(ResBlock):
    """A residual block without biases.

    Where the number of channels changes, the released block adds a 1x1 convolution of the branch
    and not of its input, which is dropped; the weights were trained that way.
    """

    def __init__(self, channels_in: int, channels_out: int, dropout: float) -> None:
        super().__init__(channels_in, channels_out, dropout, bias=False)
        self.changes = channels_in != channels_out
        if self.changes:
            self.nin_shortcut = nn.Conv2d(channels_out, channels_out, kernel_size=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        h = self.branch(x)
        return h + (self.nin_shortcut(h) if self.changes else x)


class MaskGitEncoder(nn.Module):
    """Image [B, in_channels, H, W] to features [B, z_channels, H/f, W/f]."""

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        widths = [config.ch * m for m in config.ch_mult]
        blocks, last, previous = config.num_res_blocks, len(widths) - 1, config.ch
        self.conv_in = conv3(config.in_channels, config.ch, bias=False)
        self.down = nn.ModuleList()
        for i, width in enumerate(widths):
            level = Level([previous] + [width] * blocks, False, config.dropout, MaskGitBlock)
            if i != last:
                level.downsample = nn.AvgPool2d(2)
            self.down.append(level)
            previous = width
        middle = [MaskGitBlock(previous, previous, config.dropout) for _ in range(blocks)]
        self.mid = nn.ModuleList(middle)
        self.norm_out = group_norm(previous)
        self.conv_out = nn.Conv2d(previous, config.z_channels, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv_in(x)
        for module in (*self.down, *self.mid):
            h = module(h)
        return cast(Tensor, self.conv_out(F.silu(self.norm_out(h))))


class MaskGitDecoder(nn.Module):
    """Latent map [B, z_channels, h, w] to image [B, in_channels, h*f, w*f]."""

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        widths = [config.ch * m for m in config.ch_mult]
        blocks, previous = config.num_res_blocks, widths[-1]
        self.conv_in = conv3(config.z_channels, previous)
        middle = [MaskGitBlock(previous, previous, config.dropout) for _ in range(blocks)]
        self.mid = nn.ModuleList(middle)
        levels: list[Level] = []
        for i in range(len(widths) - 1, -1, -1):
            level = Level([previous] + [widths[i]] * blocks, False, config.dropout, MaskGitBlock)
            if i != 0:
                level.upsample = Upsample(widths[i])
            levels.append(level)
            previous = widths[i]
        # Stored fine to coarse, run coarse to fine.
        self.up = nn.ModuleList(reversed(levels))
        self.norm_out, self.conv_out = group_norm(previous), conv3(previous, config.in_channels)

    def forward(self, z: Tensor) -> Tensor:
        h = self.conv_in(z)
        for module in (*self.mid, *reversed(list(self.up))):
            h = module(h)
        return cast(Tensor, self.conv_out(F.silu(self.norm_out(h))))


class Tokenizer(nn.Module):
    """Images in [0, 1] to tokens row by row and back.

    Attributes:
        config: the shape it was built with.
    """

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        self.config = config
        if config.kind == "patches":
            self.codebook = nn.Embedding(config.vocab, config.in_channels * config.patch**2)
            return
        z, code = config.z_channels, config.code_channels
        if config.kind == "maskgit":
            self.encoder: nn.Module = MaskGitEncoder(config)
            self.decoder: nn.Module = MaskGitDecoder(config)
            self.codebook = nn.Embedding(config.vocab, z)
            return
        self.encoder, self.decoder = Encoder(config), Decoder(config)
        self.codebook = nn.Embedding(config.vocab, code)
        self.quant_conv = nn.Conv2d(z, code, kernel_size=1)
        self.post_quant_conv = nn.Conv2d(code, z, kernel_size=1)

    def _entries(self) -> Tensor:
        """The codebook [V, channels] as it is compared and decoded."""
        weight = self.codebook.weight
        return F.normalize(weight, dim=-1) if self.config.kind == "vq16" else weight

    @torch.no_grad()
    def encode(self, image_BCHW: Tensor) -> Tensor:
        """Tokens [B, side * side] of images in [0, 1].

        Raises:
            ValueError: images of another shape.
        """
        size, kind = self.config.image_size, self.config.kind
        if tuple(image_BCHW.shape[1:]) != (self.config.in_channels, size, size):
            raise ValueError(
                f"images of shape {tuple(image_BCHW.shape)}: expected "
                f"[B, {self.config.in_channels}, {size}, {size}]"
            )
        if kind == "patches":
            z_BZhw = F.pixel_unshuffle(image_BCHW, self.config.patch)
        elif kind == "maskgit":
            z_BZhw = self.encoder(image_BCHW)
        else:
            z_BZhw = F.normalize(self.quant_conv(self.encoder(image_BCHW * 2 - 1)), dim=1)
        z_NZ, entries_VZ = z_BZhw.permute(0, 2, 3, 1).flatten(0, 2), self._entries()
        distance_NV = entries_VZ.square().sum(1) - 2 * z_NZ @ entries_VZ.T
        return distance_NV.argmin(1).view(len(image_BCHW), -1)

    @torch.no_grad()
    def decode(self, tokens_BT: Tensor) -> Tensor:
        """Images [B, in_channels, size, size] in [0, 1] of tokens row by row [B, side * side]."""
        config = self.config
        side = (config.side, config.side)
        z_BZhw = self._entries()[tokens_BT].transpose(1, 2).unflatten(2, side)
        if config.kind == "patches":
            return F.pixel_shuffle(z_BZhw, config.patch).clamp(0, 1)
        if config.kind == "maskgit":
            image: Tensor = self.decoder(z_BZhw)
            return image.clamp(0, 1)
        image = self.decoder(self.post_quant_conv(z_BZhw))
        return (image.clamp(-1, 1) + 1) * 0.5
