# SPDX-License-Identifier: Apache-2.0
"""Which cells of the last token map an edit regenerates: from a box or from the pixels of a mask.

A mask is True for a cell that keeps the given token (`lutvar.contract.editing`).

Source: the released notebook of VAR (arXiv:2404.02905) for boxes in fractions.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .editing import EditError, Mask

_ORDER = "top,left,bottom,right"


def box_mask(box: Sequence[float], side: int, outside: bool = False) -> Mask:
    """Mask of a box in fractions of the image's side, each rounded to the nearest cell.

    Args:
        box: top, left, bottom, right, from 0 to 1; halves go to the even cell.
        side: of the last token map.
        outside: keep the box and regenerate what is around it (out-painting); else the box is
            regenerated (in-painting).

    Raises:
        EditError: a box that is none.
    """
    top, left, bottom, right = _checked(box, 1)
    inside = np.zeros((side, side), bool)
    inside[round(top * side) : round(bottom * side), round(left * side) : round(right * side)] = 1
    return inside if outside else ~inside


def box_pixels(box: Sequence[float], size: int, outside: bool = False) -> Mask:
    """Pixels to regenerate, [size, size], of a box in whole pixels; for `pixel_mask`.

    Args:
        box: top, left, bottom, right; the last two are the first row and column behind it.
        size: side of the model's images.
        outside: what is around the box is regenerated.

    Raises:
        EditError: a box that is none.
    """
    values = _checked(box, size)
    if any(v != int(v) for v in values):
        raise EditError(f"box {_text(box)}: pixels are whole numbers, and fractions at most 1")
    top, left, bottom, right = (int(v) for v in values)
    pixels = np.zeros((size, size), bool)
    pixels[top:bottom, left:right] = True
    return ~pixels if outside else pixels


def pixel_mask(regenerate: NDArray[np.bool_], side: int) -> Mask:
    """Mask over the last token map: a cell that holds any part of a pixel to regenerate is drawn.

    Args:
        regenerate: [size, size], True for pixels to regenerate; any size.
        side: of the last token map.
    """
    size = len(regenerate)
    edges = [(i * size // side, -(-(i + 1) * size // side)) for i in range(side)]
    rows = np.stack([regenerate[first:end].any(0) for first, end in edges])
    return ~np.stack([rows[:, first:end].any(1) for first, end in edges], 1)


def grown(mask: Mask, cells: int) -> Mask:
    """The mask with the regenerated region larger by some cells on every side, diagonals too.

    The image is encoded whole, and the tokenizer looks beyond a cell: what the mask covers leaks
    into the tokens around it. A border of one cell regenerates those as well.
    """
    if cells < 0:
        raise EditError(f"a border of {cells} cells; it must be 0 or more")
    keep = mask.copy()
    for row, column in np.argwhere(~mask):
        rows = slice(max(0, row - cells), row + cells + 1)
        keep[rows, max(0, column - cells) : column + cells + 1] = False
    return keep


def _checked(box: Sequence[float], limit: int) -> list[float]:
    values = [float(v) for v in box]
    if len(values) != 4 or not all(np.isfinite(values)):
        raise EditError(f"box {_text(box)}: needs four numbers, {_ORDER}")
    top, left, bottom, right = values
    if not (0 <= top < bottom <= limit and 0 <= left < right <= limit):
        unit = "fractions of the side" if limit == 1 else "pixels"
        raise EditError(
            f"box {_text(box)} ({_ORDER}): top < bottom and left < right, {unit} from 0 to {limit}"
        )
    return values


def _text(box: Sequence[float]) -> str:
    return ",".join(f"{float(v):g}" for v in box)
