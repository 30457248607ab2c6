# SPDX-License-Identifier: Apache-2.0
"""The picture of an edit: the given image, its mask at every scale, and the results."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from lutvar.contract.editing import Mask
from lutvar.files import rendered, write_file

#: Smallest side of a tile in screen pixels; images grow in whole steps.
_TILE = 128
_GAP, _MARGIN, _CAPTION, _COLUMNS = 10, 24, 22, 8
_INK, _FAINT, _PAPER, _FRAME = (20, 24, 28), (95, 102, 110), (255, 255, 255), (205, 210, 215)
_DRAWN = (230, 120, 20)  #: over cells that are regenerated
_COVER = 0.75

Bytes = NDArray[np.uint8]


def as_bytes(image_CHW: NDArray[np.float32]) -> Bytes:
    """Image in [0, 1] as bytes, [H, W, C]."""
    pixels = np.rint(np.clip(image_CHW, 0, 1) * np.float32(255)).astype(np.uint8)
    return pixels.transpose(1, 2, 0)


def write_edit_sheet(
    path: Path,
    given: Bytes,
    decoded: Bytes,
    masks: Sequence[Mask],
    results: Sequence[Bytes],
    names: Sequence[str],
    together: int,
    title: str,
    note: str,
) -> None:
    """Draw the sheet as PNG: given image, what its tokens decode to, masks; then the results.

    Args:
        path: file to write.
        given, decoded: images, [H, W, C].
        masks: of each scale, [p, p], True where the given token stays.
        results, names: edited images and what stands under each.
        together: results of one class, which begin a row.
        title, note: lines above and below.
    """
    zoom = max(1, -(-_TILE // len(given)))
    tiles = [(_large(given, zoom), "given"), (_large(decoded, zoom), "its tokens")]
    tiles += [(_covered(given, mask, zoom), f"{len(mask)}x{len(mask)}") for mask in masks]
    drawn = [(_large(r, zoom), name) for r, name in zip(results, names, strict=True)]
    parts = [tiles, *(drawn[i : i + together] for i in range(0, len(drawn), together))]
    rows = [part[i : i + _COLUMNS] for part in parts for i in range(0, len(part), _COLUMNS)]
    side, (large, small) = len(given) * zoom, (ImageFont.load_default(s) for s in (20, 14))
    columns = max(len(row) for row in rows)
    text = int(max(large.getlength(title), small.getlength(note)))
    width = 2 * _MARGIN + max(columns * (side + _GAP) - _GAP, text)
    height = 2 * _MARGIN + 36 + len(rows) * (side + _CAPTION + _GAP) + 16
    sheet = Image.new("RGB", (width, height), _PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((_MARGIN, _MARGIN), title, fill=_INK, font=large)
    y = _MARGIN + 36
    for row in rows:
        for i, (tile, caption) in enumerate(row):
            x = _MARGIN + i * (side + _GAP)
            sheet.paste(Image.fromarray(tile), (x, y))
            draw.rectangle((x - 1, y - 1, x + side, y + side), outline=_FRAME)
            middle = (x + side / 2, y + side + 4)
            draw.text(middle, caption, fill=_INK, font=small, anchor="ma")
        y += side + _CAPTION + _GAP
    draw.text((_MARGIN, y), note, fill=_FAINT, font=small)
    write_file(path, rendered(lambda file: sheet.save(file, format="PNG")))


def _large(image: Bytes, zoom: int) -> Bytes:
    """In colour, every pixel a square of `zoom` screen pixels."""
    colour = np.broadcast_to(image, (*image.shape[:2], 3))
    return np.repeat(np.repeat(colour, zoom, 0), zoom, 1)


def _covered(image: Bytes, mask: Mask, zoom: int) -> Bytes:
    """The image with a cover over the cells that are regenerated, on screen pixels."""
    tile = _large(image, zoom).astype(np.float32)
    cell = np.arange(len(tile)) * len(mask) // len(tile)
    drawn = ~mask[cell[:, None], cell]
    tile[drawn] = (1 - _COVER) * tile[drawn] + _COVER * np.array(_DRAWN, np.float32)
    return tile.astype(np.uint8)
