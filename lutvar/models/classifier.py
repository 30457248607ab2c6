# SPDX-License-Identifier: Apache-2.0
"""A small convolutional digit classifier: the judge of generated images."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F


class DigitClassifier(nn.Module):
    """Two convolutions and two linears, 8x8 grey images to 10 classes."""

    def __init__(self, channels: int = 32) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.hidden = nn.Linear(channels * 16, 64)
        self.out = nn.Linear(64, 10)

    def features(self, image_B1HW: Tensor) -> Tensor:
        """[B, 64] features before the last linear, for images [B, 1, 8, 8] in [0, 1]."""
        h = F.relu(self.conv1(image_B1HW * 2 - 1))
        h = F.max_pool2d(F.relu(self.conv2(h)), 2)
        h = F.dropout(h.flatten(1), 0.3, self.training)
        return F.relu(self.hidden(h))

    def forward(self, image_B1HW: Tensor) -> Tensor:
        """Logits [B, 10] for images [B, 1, 8, 8] in [0, 1]."""
        return self.out(self.features(image_B1HW))


@torch.no_grad()
def agreement(classifier: DigitClassifier, image_B1HW: Tensor, labels_B: Tensor) -> float:
    """Share (0 to 1) of images in [0, 1] whose most likely class is the label."""
    return (classifier(image_B1HW).argmax(1) == labels_B).float().mean().item()


def load_classifier(path: str | Path) -> DigitClassifier:
    """Load a saved classifier in evaluation mode."""
    model = DigitClassifier()
    model.load_state_dict({k: v.float() for k, v in load_file(path).items()})
    return model.eval()
