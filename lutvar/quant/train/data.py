# SPDX-License-Identifier: Apache-2.0
"""Training images: the form all sets have, and the digits (8x8 pixels, 17 grey levels).

Source: "Optical Recognition of Handwritten Digits" (E. Alpaydin, C. Kaynak, 1998; UCI Machine
Learning Repository, CC BY 4.0), the 1,797 images that come with scikit-learn, so that training
needs no download.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

#: Grey levels of the data set run from 0 to this.
GREY_MAX = 16
_VALIDATION_SHARE = 0.15


#: Held-out images that a stage looks at while it trains.
_MONITOR = 512


class ImageSet(NamedTuple):
    """Images [N, C, H, W] in [-1, 1] and labels [N] of the two parts of a data set, shuffled."""

    train_images: Tensor
    train_labels: Tensor
    val_images: Tensor
    val_labels: Tensor

    def monitor(self) -> tuple[Tensor, Tensor]:
        """Images and labels to measure on during the training: a part of the held-out ones."""
        return self.val_images[:_MONITOR], self.val_labels[:_MONITOR]


def load_digits() -> ImageSet:
    """Load the data set and split it; the split never changes.

    Raises:
        ImportError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits as fetch
    except ImportError as error:
        raise ImportError(
            "the training images come with scikit-learn, which is not installed; "
            "install the extra: pip install 'lutvar[train]'"
        ) from error
    bundle = fetch()
    images = torch.tensor(bundle.images, dtype=torch.float32).unsqueeze(1) * (2 / GREY_MAX) - 1
    labels = torch.tensor(bundle.target, dtype=torch.long)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    cut = int(len(labels) * _VALIDATION_SHARE)
    val, train = order[:cut], order[cut:]
    return ImageSet(images[train], labels[train], images[val], labels[val])


def pick_images(data: ImageSet, count: int, flip: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """A random batch from the training part: images, labels, and an index into images and mirrors.

    Draws from torch's global generator. With `flip`, half of the images are mirrored left to right;
    the index is then `2 * image + mirrored`.
    """
    pick = torch.randint(len(data.train_labels), (count,))
    images, index = data.train_images[pick], 2 * pick
    if flip:
        mirrored = torch.rand(count, dtype=torch.float32) < 0.5
        images = torch.where(mirrored[:, None, None, None], images.flip(3), images)
        index = index + mirrored
    return images, data.train_labels[pick], index


def augment(image_BCHW: Tensor, degrees: float, stretch: float, shift: float) -> Tensor:
    """Small random rotations, stretches and shifts, drawn from torch's global generator.

    Args:
        image_BCHW: images in [-1, 1]; what comes in from outside is -1.
        degrees: largest rotation either way.
        stretch: largest relative change of each side.
        shift: largest shift of each axis in pixels.
    """
    B, _, H, W = image_BCHW.shape
    if degrees == stretch == shift == 0:
        return image_BCHW
    angle, sx, sy, dx, dy = (torch.rand(5, B, dtype=torch.float32) * 2 - 1).unbind()
    angle = angle * math.radians(degrees)
    sx, sy = 1 + sx * stretch, 1 + sy * stretch
    rows = (
        torch.stack((sx * angle.cos(), -sy * angle.sin(), dx * shift * 2 / W), dim=1),
        torch.stack((sx * angle.sin(), sy * angle.cos(), dy * shift * 2 / H), dim=1),
    )
    grid = F.affine_grid(torch.stack(rows, dim=1), list(image_BCHW.shape), align_corners=False)
    # grid_sample pads with zeros, so move black there for the sampling.
    return F.grid_sample(image_BCHW + 1, grid, align_corners=False) - 1
