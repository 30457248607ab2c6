# SPDX-License-Identifier: Apache-2.0
"""Convolutional encoder and decoder around the quantizer.

Residual blocks with group norm, self-attention at the coarsest resolution and in
the middle, strided convolutions down and nearest-neighbour upsampling. Parameter
names follow the released checkpoint.

Source: the autoencoder of latent diffusion (arXiv:2112.10752), appendix, as used by VAR.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def group_norm(channels: int) -> nn.GroupNorm:
    """Group norm with the 32 groups used everywhere in this network."""
    return nn.GroupNorm(32, channels, eps=1e-6)


def conv3(channels_in: int, channels_out: int, bias: bool = True) -> nn.Conv2d:
    """3x3 convolution that keeps the size."""
    return nn.Conv2d(channels_in, channels_out, kernel_size=3, padding=1, bias=bias)


class AutoencoderShape(Protocol):
    """What `Encoder` and `Decoder` need to know; see `VqvaeConfig`."""

    @property
    def z_channels(self) -> int:
        """Channels of the latent map."""

    @property
    def ch(self) -> int:
        """Base channels."""

    @property
    def ch_mult(self) -> tuple[int, ...]:
        """Channel multiplier per resolution level, fine to coarse."""

    @property
    def num_res_blocks(self) -> int:
        """Residual blocks per encoder level."""

    @property
    def in_channels(self) -> int:
        """Image channels."""

    @property
    def dropout(self) -> float:
        """Dropout in the residual blocks."""


class ResBlock(nn.Module):
    """Norm, SiLU, conv, twice, plus the input (through a 1x1 conv when channels change)."""

    def __init__(
        self, channels_in: int, channels_out: int, dropout: float, bias: bool = True
    ) -> None:
        super().__init__()
        self.norm1, self.conv1 = (
            group_norm(channels_in),
            conv3(channels_in, channels_out, bias),
        )
        self.norm2, self.conv2 = (
            group_norm(channels_out),
            conv3(channels_out, channels_out, bias),
        )
        self.dropout = nn.Dropout(dropout)
        self.nin_shortcut: nn.Module = nn.Identity()
        if channels_in != channels_out:
            self.nin_shortcut = nn.Conv2d(channels_in, channels_out, kernel_size=1)

    def branch(self, x: Tensor) -> Tensor:
        """Norm, SiLU, conv, twice."""
        h = self.conv1(F.silu(self.norm1(x)))
        y: Tensor = self.conv2(self.dropout(F.silu(self.norm2(h))))
        return y

    def forward(self, x: Tensor) -> Tensor:
        return self.nin_shortcut(x) + self.branch(x)


class SpatialAttention(nn.Module):
    """Single-head self-attention over all positions of a map."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = group_norm(channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, kernel_size=1)
        self.proj_out = nn.Conv2d(channels, channels, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        B, C, H, W = x.shape
        q, k, v = self.qkv(self.norm(x)).reshape(B, 3, C, H * W).unbind(1)
        weights_BNN = torch.bmm(q.transpose(1, 2), k).mul(C**-0.5).softmax(dim=2)
        y = torch.bmm(v, weights_BNN.transpose(1, 2)).view(B, C, H, W)
        return x + self.proj_out(y)


class Downsample(nn.Module):
    """Halve the resolution; pads right and bottom only, as the checkpoint was trained."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, kernel_size=3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Double the resolution: repeat pixels, then convolve."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = conv3(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Level(nn.Module):
    """The residual blocks of one resolution, with attention after each at the coarsest one."""

    def __init__(
        self,
        widths: list[int],
        attention: bool,
        dropout: float,
        kind: Callable[[int, int, float], nn.Module] = ResBlock,
    ) -> None:
        super().__init__()
        pairs = list(pairwise(widths))
        self.block = nn.ModuleList(kind(a, b, dropout) for a, b in pairs)
        attentions = [SpatialAttention(b) for _, b in pairs] if attention else []
        self.attn = nn.ModuleList(attentions)
        self.downsample: nn.Module | None = None
        self.upsample: nn.Module | None = None

    def forward(self, x: Tensor) -> Tensor:
        for i, block in enumerate(self.block):
            x = block(x)
            if len(self.attn):
                x = self.attn[i](x)
        for resize in (self.downsample, self.upsample):
            if resize is not None:
                x = resize(x)
        return x


class Middle(nn.Module):
    """Block, attention, block at the coarsest resolution."""

    def __init__(self, channels: int, dropout: float) -> None:
        super().__init__()
        self.block_1 = ResBlock(channels, channels, dropout)
        self.attn_1 = SpatialAttention(channels)
        self.block_2 = ResBlock(channels, channels, dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.block_2(self.attn_1(self.block_1(x)))


class Encoder(nn.Module):
    """Image [B, in_channels, H, W] to features [B, z_channels, H/f, W/f]."""

    def __init__(self, config: AutoencoderShape) -> None:
        super().__init__()
        widths = [config.ch * m for m in config.ch_mult]
        last = len(widths) - 1
        self.conv_in = conv3(config.in_channels, config.ch)
        self.down = nn.ModuleList()
        previous = config.ch
        for i, width in enumerate(widths):
            level = Level([previous] + [width] * config.num_res_blocks, i == last, config.dropout)
            if i != last:
                level.downsample = Downsample(width)
            self.down.append(level)
            previous = width
        self.mid = Middle(previous, config.dropout)
        self.norm_out, self.conv_out = (
            group_norm(previous),
            conv3(previous, config.z_channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv_in(x)
        for level in self.down:
            h = level(h)
        return self.conv_out(F.silu(self.norm_out(self.mid(h))))


class Decoder(nn.Module):
    """Latent map [B, z_channels, h, w] to image [B, in_channels, h*f, w*f]."""

    def __init__(self, config: AutoencoderShape) -> None:
        super().__init__()
        widths = [config.ch * m for m in config.ch_mult]
        last = len(widths) - 1
        previous = widths[-1]
        self.conv_in = conv3(config.z_channels, previous)
        self.mid = Middle(previous, config.dropout)
        levels: list[Level] = []
        for i in range(last, -1, -1):
            inner = [previous] + [widths[i]] * (config.num_res_blocks + 1)
            level = Level(inner, i == last, config.dropout)
            if i != 0:
                level.upsample = Upsample(widths[i])
            levels.append(level)
            previous = widths[i]
        # Stored fine to coarse, run coarse to fine.
        self.up = nn.ModuleList(reversed(levels))
        self.norm_out, self.conv_out = (
            group_norm(previous),
            conv3(previous, config.in_channels),
        )

    def forward(self, z: Tensor) -> Tensor:
        h = self.mid(self.conv_in(z))
        for level in reversed(list(self.up)):
            h = cast(Level, level)(h)
        return self.conv_out(F.silu(self.norm_out(h)))
