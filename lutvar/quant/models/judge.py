# SPDX-License-Identifier: Apache-2.0
"""What a classifier of generated images offers, whichever network it is."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn


class Judge(nn.Module, ABC):
    """A classifier whose logits are a linear function of its features.

    Attributes:
        kind: name under which files are marked with the network.
        image_shape: [C, H, W] of the images.
        width: number of features D.
    """

    kind: str
    image_shape: tuple[int, int, int]
    width: int
    out: nn.Linear

    @abstractmethod
    def features(self, image_BCHW: Tensor) -> Tensor:
        """[B, D] features before the last linear, for images in [0, 1]."""

    def classify(self, feature_BD: Tensor) -> Tensor:
        """Logits [B, classes] of features."""
        return self.out(feature_BD)

    def forward(self, image_BCHW: Tensor) -> Tensor:
        """Logits [B, classes] for images in [0, 1]."""
        return self.classify(self.features(image_BCHW))


@torch.no_grad()
def features_in_parts(judge: Judge, image_NCHW: Tensor, part: int = 500) -> Tensor:
    """[N, D] features of many images in [0, 1]; memory for `part` of them at a time."""
    return torch.cat([judge.features(images) for images in image_NCHW.split(part)])


@torch.no_grad()
def agreement(judge: Judge, image_NCHW: Tensor, labels_N: Tensor) -> float:
    """Share (0 to 1) of images in [0, 1] whose most likely class is the label."""
    guess_N = judge.classify(features_in_parts(judge, image_NCHW)).argmax(1)
    return (guess_N == labels_N).float().mean().item()
