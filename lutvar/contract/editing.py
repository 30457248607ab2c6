# SPDX-License-Identifier: Apache-2.0
"""Editing without training: which tokens of a given image stay, and the masks that say so.

In-painting, out-painting and class-conditional editing are one procedure on the host. Every token
is drawn as always; at the cells that a mask keeps, the tokens of the given image take the place of
the drawn ones before they enter the feature map, at every scale. Transformer, guidance and the
order of random numbers do not change, so whatever computes logits can edit.

A mask is a square of booleans over the last token map, True for a cell that keeps the given token.

Source: VAR (arXiv:2404.02905), section 5.3 (zero-shot in-painting, out-painting, editing) and the
released notebook for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from .errors import ConfigError

Mask = NDArray[np.bool_]
Tokens = NDArray[np.int64]
_T = TypeVar("_T", bound=np.generic)
#: Maps with at most so many cells keep everything.
_ALWAYS_KEPT = 3


class EditError(ConfigError):
    """A mask, a box or tokens that cannot be edited with."""


@dataclass(frozen=True, eq=False)
class Edit:
    """Tokens of an image and which of them stay.

    Attributes:
        tokens: of the given image, per scale [p * p].
        keep: per scale [p * p], True where the given token stays.

    Raises:
        EditError: arrays that do not belong together.
    """

    tokens: tuple[Tokens, ...]
    keep: tuple[Mask, ...]

    def __post_init__(self) -> None:
        found = [t.shape for t in self.tokens], [k.shape for k in self.keep]
        if found[0] != found[1] or any(len(shape) != 1 for shape in found[0]):
            raise EditError(
                f"given tokens of shapes {found[0]}, masks of shapes {found[1]}: each scale needs "
                "one token and one boolean for each of its cells, [p * p]"
            )
        for kind, values in ("bool", self.keep), ("int64", self.tokens):
            wrong = [v.dtype for v in values if v.dtype != np.dtype(kind)]
            if wrong:
                raise EditError(f"an edit with values of type {wrong[0]}, where {kind} is needed")

    @classmethod
    def of(cls, tokens: Sequence[Tokens], mask: Mask, patch_nums: Sequence[int]) -> Edit:
        """An edit from a mask over the last token map.

        Args:
            tokens: of the given image, per scale [p * p].
            mask: [p_last, p_last], True where the image stays.
            patch_nums: side of each token map.

        Raises:
            EditError: tokens or a mask of another size, or a mask that keeps all or nothing.
        """
        keep = tuple(m.reshape(-1) for m in masks_of(check_mask(mask, patch_nums[-1]), patch_nums))
        return cls(tuple(np.asarray(t, np.int64) for t in tokens), keep)

    def merged(self, scale: int, drawn: NDArray[_T], given: NDArray[_T]) -> NDArray[_T]:
        """Rows of `given` where the scale keeps its cells, of `drawn` elsewhere; [p * p, ...]."""
        keep = self.keep[scale].reshape(-1, *(1,) * (drawn.ndim - 1))
        return np.where(keep, given, drawn)

    def tokens_after(self, scale: int, drawn: Tokens) -> Tokens:
        """Tokens of the edited map: given ones where they stay, drawn ones elsewhere, [p * p]."""
        return self.merged(scale, drawn, self.tokens[scale])


def check_edits(
    edits: Sequence[Edit], images: int, patch_nums: Sequence[int], vocab: int
) -> Sequence[Edit]:
    """The edits themselves when there is one for each image and they fit the model.

    Raises:
        EditError: another number of edits, or tokens of other scales or another vocabulary.
    """
    if len(edits) != images:
        raise EditError(f"{len(edits)} edits for {images} images; one for each image")
    cells = [p * p for p in patch_nums]
    for edit in edits:
        found = [len(t) for t in edit.tokens]
        if found != cells:
            raise EditError(f"given token maps of lengths {found}: the scales need {cells}")
        for tokens in edit.tokens:
            if tokens.min() < 0 or tokens.max() >= vocab:
                raise EditError(
                    f"given tokens from {tokens.min()} to {tokens.max()}: the codebook has 0 to "
                    f"{vocab - 1}; encode the image with this model's tokenizer"
                )
    return edits


def check_mask(mask: Mask, side: int) -> Mask:
    """The mask itself when it can be used on a token map of this side.

    Raises:
        EditError: another shape or type, or nothing to keep or to regenerate.
    """
    if mask.shape != (side, side) or mask.dtype != np.dtype(bool):
        raise EditError(
            f"a mask of shape {mask.shape} and type {mask.dtype}: the last token map needs "
            f"{(side, side)} booleans"
        )
    if mask.all():
        raise EditError(
            "the mask keeps every cell, so that nothing is regenerated; take a larger region"
        )
    if not mask.any():
        raise EditError(
            "the mask keeps no cell, so that nothing of the image is left; take a smaller region, "
            "or generate without an image"
        )
    return mask


def masks_of(mask: Mask, patch_nums: Sequence[int]) -> list[Mask]:
    """The mask at every scale, [p, p] each.

    Bilinear between cell centres in float32, no antialiasing, kept above one half; maps of at most
    3 cells keep everything. Only the two nearest cells along each axis count, so a coarse cell
    follows the mask around its centre, however much of its area is to be drawn.
    """
    return [
        _resized(mask, p) if p * p > _ALWAYS_KEPT else np.ones((p, p), bool) for p in patch_nums
    ]


def _resized(mask: Mask, side: int) -> Mask:
    first, second, share = _neighbours(len(mask), side)
    values = mask.astype(np.float32)
    one = np.float32(1)
    rows = (one - share) * values[:, first] + share * values[:, second]
    columns = (one - share)[:, None] * rows[first] + share[:, None] * rows[second]
    return columns > np.float32(0.5)


def _neighbours(size: int, side: int) -> tuple[Tokens, Tokens, NDArray[np.float32]]:
    """Of each of `side` cells: the two of `size` around its centre, and the second one's share."""
    # One rounding, as a fused multiply-add has: PyTorch's kernels are compiled to one.
    ratio = np.float64(np.float32(size) / np.float32(side))
    at = np.maximum(ratio * (np.arange(side) + 0.5) - 0.5, 0).astype(np.float32)
    first = at.astype(np.int64)
    return first, np.minimum(first + 1, size - 1), at - first.astype(np.float32)
