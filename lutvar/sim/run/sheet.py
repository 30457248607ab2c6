# SPDX-License-Identifier: Apache-2.0
"""The picture of a demo run: labelled rows of images, one column for each class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from lutvar.files import rendered, write_file

#: Smallest side of an image on the sheet, in screen pixels; smaller ones grow in whole steps.
_TILE = 96
_GAP, _MARGIN, _LABELS = 10, 24, 200
_INK, _FAINT, _PAPER, _FRAME = (20, 24, 28), (95, 102, 110), (255, 255, 255), (205, 210, 215)


@dataclass(frozen=True)
class SheetRow:
    """One row: what made the images, in a few words, and the images [B, C, H, W] in [0, 1]."""

    label: str
    detail: str
    images_BCHW: Tensor


def write_sheet(
    path: Path, rows: Sequence[SheetRow], columns: Sequence[str], title: str, note: str
) -> None:
    """Draw the sheet as PNG.

    Args:
        path: file to write.
        rows: from top to bottom; equal shapes.
        columns: heading of each column.
        title, note: lines above and below.

    Raises:
        ValueError: rows of different shape, or not one heading for each image.
    """
    shapes = {tuple(row.images_BCHW.shape) for row in rows}
    if len(shapes) != 1 or next(iter(shapes))[0] != len(columns):
        raise ValueError(
            f"images of shapes {sorted(shapes)} under {len(columns)} headings; every row needs one "
            "image for each heading, all of one shape"
        )
    count, _, height, width = next(iter(shapes))
    zoom = max(1, -(-_TILE // min(height, width)))
    high, wide = height * zoom, width * zoom
    heading, top = 26, _MARGIN + 40
    large, normal, small = (ImageFont.load_default(size) for size in (22, 17, 14))
    text_width = max(int(large.getlength(title)), int(small.getlength(note)))
    size = (
        max(_LABELS + count * (wide + _GAP), text_width) + 2 * _MARGIN,
        top + heading + len(rows) * (high + _GAP) + 24 + _MARGIN,
    )
    sheet = Image.new("RGB", size, _PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((_MARGIN, _MARGIN), title, fill=_INK, font=large)
    left = _MARGIN + _LABELS
    for i, name in enumerate(columns):
        x = left + i * (wide + _GAP) + wide / 2
        draw.text((x, top + heading - 6), name, fill=_INK, font=normal, anchor="ms")
    y = top + heading
    for row in rows:
        middle = y + high / 2
        draw.text((_MARGIN, middle - 2), row.label, fill=_INK, font=normal, anchor="ls")
        draw.text((_MARGIN, middle + 4), row.detail, fill=_FAINT, font=small, anchor="la")
        for i, tile in enumerate(_pixels(row.images_BCHW, zoom)):
            x = left + i * (wide + _GAP)
            sheet.paste(Image.fromarray(tile), (x, y))
            draw.rectangle((x - 1, y - 1, x + wide, y + high), outline=_FRAME)
        y += high + _GAP
    draw.text((_MARGIN, y + 6), note, fill=_FAINT, font=small)
    write_file(path, rendered(lambda file: sheet.save(file, format="PNG")))


def _pixels(images_BCHW: Tensor, zoom: int) -> np.ndarray:
    """[B, H * zoom, W * zoom, 3] uint8; every pixel becomes a square."""
    pixels = (images_BCHW.detach().clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).numpy()
    pixels = np.broadcast_to(pixels, (*pixels.shape[:3], 3)) if pixels.shape[3] == 1 else pixels
    return np.repeat(np.repeat(pixels, zoom, axis=1), zoom, axis=2)
