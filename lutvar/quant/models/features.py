# SPDX-License-Identifier: Apache-2.0
"""A small convolutional network for 32x32 RGB images: the judge of CIFAR-10 samples.

Distances between sets of images are measured on its features, the 64 channels before the last
linear. They compare samples of one model with each other and with CIFAR-10; they are not the
features of Inception, so nothing measured on them compares with a published FID.

Source: residual blocks (arXiv:1512.03385) in the shallow form that fast CIFAR-10 training uses
(D. Page, 2018); batch norm is folded into the convolutions.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .judge import Judge

#: Channels of the features.
FEATURES = 64


class ConvShape(NamedTuple):
    """One 3x3 convolution of the network."""

    name: str
    channels_in: int
    channels_out: int


#: In the order in which they run.
CONVOLUTIONS = (
    ConvShape("stem", 3, 24),
    ConvShape("middle", 24, 48),
    ConvShape("last", 48, FEATURES),
    ConvShape("inner1", FEATURES, FEATURES),
    ConvShape("inner2", FEATURES, FEATURES),
)


class FeatureNet(Judge):
    """Five convolutions, the last two a residual block, average pooling, one linear; 10 classes."""

    kind = "features"
    image_shape = (3, 32, 32)
    width = FEATURES

    def __init__(self) -> None:
        super().__init__()
        self.convolutions = nn.ModuleDict({c.name: self.convolution(c) for c in CONVOLUTIONS})
        self.out = nn.Linear(FEATURES, 10)

    def convolution(self, shape: ConvShape) -> nn.Module:
        """What computes one convolution; training puts batch norm into it."""
        return nn.Conv2d(shape.channels_in, shape.channels_out, 3, padding=1)

    def features(self, image_BCHW: Tensor) -> Tensor:
        """[B, 64] features before the last linear, for images [B, 3, 32, 32] in [0, 1]."""
        conv = self.convolutions
        x = (image_BCHW * 4 - 2).contiguous(memory_format=torch.channels_last)
        x = F.max_pool2d(F.relu(conv["stem"](x)), 2)
        x = F.max_pool2d(F.relu(conv["middle"](x)), 2)
        x = F.relu(conv["last"](x))
        x = x + F.relu(conv["inner2"](F.relu(conv["inner1"](x))))
        return x.mean((2, 3))
