# SPDX-License-Identifier: Apache-2.0
"""Teacher forcing as the model generates: scale by scale, with its cache and its hook.

`Var.forward` gives the same logits in one pass behind a mask, but neither caches nor methods that
depend on the scale take part in it.

Source: VAR (arXiv:2404.02905), section 3.2.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .model import Var
from .vqvae import Vqvae


@torch.no_grad()
def forced_logits(var: Var, vqvae: Vqvae, labels_B: Tensor, tokens_BL: Tensor) -> list[Tensor]:
    """Conditional logits [B, p*p, V] of each scale when all coarser tokens are given.

    Args:
        var, vqvae: the model, in evaluation mode.
        labels_B: class indices.
        tokens_BL: tokens of all scales; those of the last one are not used.
    """
    sides = var.config.patch_nums
    parts = tokens_BL.long().split([p * p for p in sides], 1)
    cond, cache = var.condition(labels_B), var.new_cache()
    x_BlC, logits = var.first_input(cond), []
    f_hat: Tensor | None = None
    for i in range(len(sides)):
        if var.step_hook is not None:
            var.step_hook(i)
        logits.append(var.scale_logits(x_BlC, cond, cache))
        if i + 1 < len(sides):
            added = vqvae.quantize.contribution(i, parts[i])
            f_hat = added if f_hat is None else f_hat + added
            x_BlC = var.next_input(i + 1, vqvae.quantize.shrink(f_hat, i + 1))
    return logits
