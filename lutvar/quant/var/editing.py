# SPDX-License-Identifier: Apache-2.0
"""Editing and smooth sampling in the feature map: what enters it in place of the drawn tokens.

The rules are those of `lutvar.contract.editing` and `lutvar.contract.smoothing`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from lutvar.contract.editing import Edit, Mask

from .quantizer import MultiScaleQuantizer
from .vqvae import Vqvae


def encode_edits(vqvae: Vqvae, images_BCHW: Tensor, mask: Mask | Sequence[Mask]) -> list[Edit]:
    """Images with a mask as edits for `generate` and `generate_passes`.

    Args:
        vqvae: the model's tokenizer.
        images_BCHW: [B, in_channels, image_size, image_size] in [-1, 1].
        mask: [p_last, p_last] over the last token map, True where the image stays; one for all
            images or one for each.

    Raises:
        EditError: a mask of another size, or one that keeps all or nothing.
        ValueError: images of another shape, or not one mask for each.
    """
    tokens = [t.cpu().numpy() for t in vqvae.encode(images_BCHW)]
    images, sides = len(images_BCHW), vqvae.config.patch_nums
    masks = [mask] * images if isinstance(mask, np.ndarray) else list(mask)
    if len(masks) != images:
        raise ValueError(f"{len(masks)} masks for {images} images; one for all or one for each")
    return [Edit.of([t[i] for t in tokens], m, sides) for i, m in enumerate(masks)]


def edited_tokens(edits: Sequence[Edit], scale: int, tokens_Bl: Tensor) -> Tensor:
    """Given tokens where they stay, drawn ones elsewhere, [B, l]."""
    given = torch.from_numpy(np.stack([edit.tokens[scale] for edit in edits]))
    return torch.where(_keep(edits, scale, tokens_Bl), given.to(tokens_Bl.device), tokens_Bl)


def entering(
    quantize: MultiScaleQuantizer,
    scale: int,
    tokens_Bl: Tensor,
    weights_BlV: Tensor | None = None,
    edits: Sequence[Edit] | None = None,
) -> Tensor:
    """What a scale brings into the feature map, [B, Z, p, p] for `MultiScaleQuantizer.spread`.

    Args:
        quantize: codebook.
        scale: which one.
        tokens_Bl: tokens after editing (`edited_tokens`).
        weights_BlV: of the codebook's entries, with smooth sampling; cells that stay hold the
            entry of their token, unsmoothed.
        edits: one for each image.
    """
    book_VZ = quantize.embedding.weight
    cells_BlZ: Tensor = quantize.embedding(tokens_Bl)
    drawn_BlZ = cells_BlZ if weights_BlV is None else weights_BlV @ book_VZ
    drawn_BZpp = quantize.as_map(scale, drawn_BlZ)
    if edits is None:
        return drawn_BZpp
    given_BZpp = quantize.as_map(scale, cells_BlZ)
    keep_B1pp = _keep(edits, scale, tokens_Bl).view(-1, 1, *given_BZpp.shape[2:]).int()
    # Products with 0 and 1 are exact. A choice between the two would have another memory layout,
    # and the convolution behind it other rounding than in the released notebook.
    return given_BZpp * keep_B1pp + drawn_BZpp * (1 - keep_B1pp)


def _keep(edits: Sequence[Edit], scale: int, like: Tensor) -> Tensor:
    return torch.from_numpy(np.stack([edit.keep[scale] for edit in edits])).to(like.device)
