# SPDX-License-Identifier: Apache-2.0
"""The CIFAR-10 images: 32x32 RGB, 10 classes, from one .npz of JPEG files.

Source: A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images" (2009). The file
holds, for `train` (50,000) and `test` (10,000): `<split>_jpeg` uint8, all JPEG files end to end,
`<split>_offsets` int64 [N + 1], `<split>_labels` uint8 [N]; and `classes`.
"""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .data import ImageSet

#: Names the file when no path is given.
DATA_VARIABLE = "LUTVAR_CIFAR10"
CLASSES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip
_SIDE = 32


class DataError(ValueError):
    """A data file that is missing or is not what it should be."""


def load_cifar10() -> ImageSet:
    """Load the data set: train [50000, 3, 32, 32] and test [10000, 3, 32, 32], each shuffled.

    The order within each part never changes. The file, which the environment variable
    LUTVAR_CIFAR10 names, keeps the images sorted by class.

    Raises:
        DataError: no file, or one without the expected arrays or images.
    """
    value = os.environ.get(DATA_VARIABLE)
    if not value:
        raise DataError(
            f"CIFAR-10 does not come with lutvar: set {DATA_VARIABLE} to a .npz file with "
            "train_jpeg, train_offsets, train_labels and the same for test"
        )
    file = Path(value)
    if not file.is_file():
        raise DataError(f"{file}: no such file; it should hold CIFAR-10 as JPEG, see {__name__}")
    with np.load(file) as content:
        train, test = (_split(file, content, name) for name in ("train", "test"))
    return ImageSet(*train, *test)


def _split(file: Path, content: Any, name: str) -> tuple[Tensor, Tensor]:
    try:
        packed = content[f"{name}_jpeg"]
        offsets = content[f"{name}_offsets"]
        labels = content[f"{name}_labels"]
    except KeyError as error:
        raise DataError(f"{file}: {error}; not a CIFAR-10 file of JPEG images") from error
    count = len(labels)
    if len(offsets) != count + 1 or int(offsets[-1]) != len(packed):
        raise DataError(f"{file}: offsets of {name} do not fit its labels and bytes; copy it again")
    pixels = np.empty((count, _SIDE, _SIDE, 3), np.uint8)
    for i in range(count):
        with Image.open(io.BytesIO(packed[offsets[i] : offsets[i + 1]].tobytes())) as image:
            pixels[i] = np.asarray(image.convert("RGB"))
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0))
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2)[order].float().div_(127.5).sub_(1)
    return images, torch.from_numpy(labels.astype(np.int64))[order]
