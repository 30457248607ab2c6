# SPDX-License-Identifier: Apache-2.0
"""One row of images as a PNG, each under the name of its class."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lutvar.files import rendered, write_file

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_STRIP = 22  #: height of the class names above the images, in screen pixels


def write_row(
    images_BCHW: NDArray[np.float32], zoom: int, names: Sequence[str] | None, path: Path
) -> None:
    """Images in [0, 1] beside each other under their names, a pixel `zoom` screen pixels wide.

    Without names the images stand edge to edge.
    """
    import numpy as np
    from PIL import Image, ImageDraw, ImageFont

    pixels = np.rint(np.clip(images_BCHW, 0, 1) * np.float32(255)).astype(np.uint8)
    pixels = pixels.transpose(0, 2, 3, 1)
    count, height, width, channels = pixels.shape
    font = ImageFont.load_default(14)
    strip = 0 if names is None else _STRIP
    names = [""] * count if names is None else names
    column = max(width * zoom, *(int(font.getlength(name)) + 8 for name in names if name), 0)
    mode = "L" if channels == 1 else "RGB"
    picture = Image.new(mode, (count * column, strip + height * zoom), "white")
    draw = ImageDraw.Draw(picture)
    for i, (image, name) in enumerate(zip(pixels, names, strict=True)):
        large = np.repeat(np.repeat(image, zoom, axis=0), zoom, axis=1)
        tile = Image.fromarray(large[..., 0] if channels == 1 else large)
        picture.paste(tile, (i * column + (column - width * zoom) // 2, strip))
        middle = (i * column + column / 2, _STRIP / 2)
        draw.text(middle, name, fill="black", font=font, anchor="mm")
    write_file(path, rendered(lambda file: picture.save(file, format="PNG")))
