# SPDX-License-Identifier: Apache-2.0
"""Image files as the tokenizer takes them, and mask files as masks of its last token map.

An image is turned as its EXIF entry says, its middle square is cut out and scaled to the model's
size (Lanczos); one that has the model's size already is taken pixel for pixel.
Colours become grey for a grey model, by luma, and grey is repeated for a model in colour. Greys of
16 bits are scaled to 8 bits. Transparent pixels have no colour to encode and are refused.
"""

from __future__ import annotations

import struct
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from lutvar.contract.editing import Mask
from lutvar.contract.regions import pixel_mask
from lutvar.files import not_a_file

from .config import VqvaeConfig

#: Greys wider than 8 bits that Pillow gives for 16-bit files.
_SIXTEEN = ("I;16", "I;16L", "I;16B", "I;16N")


class ImageError(ValueError):
    """An image or mask file that cannot be used."""


class GivenImage(NamedTuple):
    """An image as the tokenizer takes it.

    Attributes:
        image_CHW: float32 in [-1, 1].
        width, height: of the file, as it is seen.
        changed: what was done to fit it, for people; "" when nothing was.
    """

    image_CHW: Tensor
    width: int
    height: int
    changed: str


def read_image(path: Path, config: VqvaeConfig) -> GivenImage:
    """Read an image for a model.

    Raises:
        ImageError: no image, a damaged one, or one with transparent pixels.
    """
    picture = _without_alpha(path, _opened(path))
    picture = _eight_bits(path, picture).convert("L" if config.in_channels == 1 else "RGB")
    width, height, size = *picture.size, config.image_size
    changed = ""
    if picture.size != (size, size):
        side = min(width, height)
        # Cut first: the filter would look beyond a box.
        picture = picture.crop(_middle(width, height))
        picture = picture.resize((size, size), Image.Resampling.LANCZOS)
        cut = "" if width == height else f"middle {side}x{side} of "
        changed = f"{cut}{width}x{height} scaled to {size}x{size}"
    pixels = torch.from_numpy(np.array(picture, np.float32)).reshape(size, size, -1)
    return GivenImage(pixels.permute(2, 0, 1) / 255 * 2 - 1, width, height, changed)


def read_mask(path: Path, given: GivenImage, config: VqvaeConfig, outside: bool = False) -> Mask:
    """Mask over the last token map from a black and white image, as large as the given image.

    White is regenerated, every cell that it touches; the image's cut applies. A mask of the model's
    own size, or with one pixel for each cell, is taken as well.

    Args:
        path: the file.
        given: the image that it belongs to.
        config: the model's tokenizer.
        outside: white is kept and black regenerated.

    Raises:
        ImageError: no image, another size, or grey pixels.
    """
    picture = _eight_bits(path, _without_alpha(path, _opened(path))).convert("L")
    white = np.array(picture)
    grey = int(((white > 0) & (white < 255)).sum())
    if grey:
        raise ImageError(
            f"{path}: {grey:,} of {white.size:,} pixels are neither black nor white; a mask has "
            "these two (JPEG files blur them: save a PNG)"
        )
    size, side = config.image_size, config.patch_nums[-1]
    square = [(size, size), (side, side)]
    if picture.size not in [(given.width, given.height), *square]:
        raise ImageError(
            f"{path}: {picture.width}x{picture.height} pixels; a mask has the size of its image, "
            f"{given.width}x{given.height}, of the model, {size}x{size}, or of the token map, "
            f"{side}x{side}"
        )
    left, top, right, bottom = _middle(*picture.size)
    pixels: NDArray[np.bool_] = white[top:bottom, left:right] > 0
    return pixel_mask(~pixels if outside else pixels, side)


def _middle(width: int, height: int) -> tuple[int, int, int, int]:
    """The middle square: left, top, right, bottom."""
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    return left, top, left + side, top + side


def _opened(path: Path) -> Image.Image:
    """The first picture of a file, decoded and turned upright."""
    reason = not_a_file(path)
    if reason:
        raise ImageError(f"{path}: {reason}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            warnings.filterwarnings("ignore", category=UserWarning)
            with Image.open(path) as file:
                file.load()
                picture = ImageOps.exif_transpose(file)
                return picture.copy()
    except UnidentifiedImageError as error:
        raise ImageError(f"{path}: is no image that Pillow can read; give a PNG or JPEG") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(f"{path}: has too many pixels to be decoded; scale it down") from error
    except (OSError, SyntaxError, ValueError, EOFError, IndexError, struct.error) as error:
        raise ImageError(f"{path}: is a damaged image ({error}); save it again") from error


def _without_alpha(path: Path, picture: Image.Image) -> Image.Image:
    """The same without an alpha channel that says nothing; ImageError when it says something."""
    if not picture.has_transparency_data:
        return picture
    alpha = np.array(picture.convert("RGBA").getchannel("A"))
    clear = int((alpha < 255).sum())
    if clear:
        raise ImageError(
            f"{path}: {clear:,} of {alpha.size:,} pixels are transparent; flatten it onto a "
            "colour, and give what to regenerate as a mask"
        )
    return picture.convert("RGB")


def _eight_bits(path: Path, picture: Image.Image) -> Image.Image:
    """Greys of 16 bits scaled to 8 bits, everything else as it is."""
    if picture.mode not in (*_SIXTEEN, "I", "F"):
        return picture
    values = np.array(picture)
    if picture.mode == "F" or values.min() < 0 or values.max() > 65535:
        raise ImageError(
            f"{path}: has pixels of 32 bits, whose white is unknown; save it with 8 or 16 bits"
        )
    scaled = (values.astype(np.uint32) * 255 + 32767) // 65535
    return Image.fromarray(scaled.astype(np.uint8))
