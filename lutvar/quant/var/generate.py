# SPDX-License-Identifier: Apache-2.0
"""Image generation: the loop over scales with guidance, sampling and the latent map.

Given equal weights and seed the tokens are those of the released implementation:
one random stream, one draw per scale over all positions of all images. With a
seed for each image its draws do not depend on what else is in the batch.

Source: VAR (arXiv:2404.02905), section 3.2 and its released sampler.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .model import Var
from .sampling import check_sampling, filter_logits, guidance_weight, guide, make_draw
from .vqvae import Vqvae


@dataclass(frozen=True)
class GenerationResult:
    """What one call of `generate` made.

    Attributes:
        images_BCHW: float32 in [0, 1].
        tokens: per scale a LongTensor [B, p*p].
        logits: per scale the guided logits [B, p*p, V] before top-k/top-p, or None.
        seconds: wall time of all images by part: transformer, sampling, feature map, embeddings,
            decoder; empty when it was not measured.
    """

    images_BCHW: Tensor
    tokens: list[Tensor]
    logits: list[Tensor] | None = None
    seconds: dict[str, float] = field(default_factory=dict)


@torch.no_grad()
def generate(
    model: Var,
    vqvae: Vqvae,
    labels_B: Tensor | Sequence[int],
    seed: int | Sequence[int],
    cfg: float = 1.5,
    top_k: int = 0,
    top_p: float = 0.0,
    progress: Callable[[int, int], None] | None = None,
    keep_logits: bool = False,
) -> GenerationResult:
    """Generate one image per label.

    Args:
        model: the transformer; put in evaluation mode by the caller.
        vqvae: the tokenizer with the same scales, vocabulary and latent channels.
        labels_B: class indices 0 .. num_classes-1, or -1 for the null class.
        seed: seed of the one random stream, and the batch is part of what it determines; or one
            seed for each image, whose draws then do not depend on the batch.
        cfg: guidance at the last scale (0 at the first, linear between); 0 turns it off.
        top_k: draw among the k most likely tokens; 0 is all.
        top_p: draw among the most likely tokens of this total probability; 0 is all.
        progress: called as progress(scales done, scales) after each scale.
        keep_logits: keep the guided logits in the result.

    Raises:
        ValueError: a label or sampling setting out of range, or model and tokenizer that do not
            fit each other.
    """
    check_pair(model, vqvae)
    config = model.config
    check_sampling(cfg, top_k, top_p, config.vocab)
    labels_B = resolve_labels(labels_B, config.num_classes, model.lvl_1L.device)
    sides, B = config.patch_nums, labels_B.shape[0]
    draw_tokens = make_draw(seed, B, labels_B.device)

    null_B = torch.full_like(labels_B, config.num_classes)
    cond = model.condition(torch.cat((labels_B, null_B)))
    cache = model.new_cache()
    x_2BlC = model.first_input(cond)
    f_hat = x_2BlC.new_zeros(B, config.z_channels, sides[-1], sides[-1])
    tokens: list[Tensor] = []
    logits: list[Tensor] = []
    for i in range(len(sides)):
        if model.step_hook is not None:
            model.step_hook(i)
        logits_2BlV = model.scale_logits(x_2BlC, cond, cache)
        logits_BlV = guide(logits_2BlV, guidance_weight(cfg, i, len(sides)))
        if keep_logits:
            logits.append(logits_BlV)
        tokens_Bl = draw_tokens(filter_logits(logits_BlV, top_k, top_p))
        tokens.append(tokens_Bl)
        f_hat = f_hat + vqvae.quantize.contribution(i, tokens_Bl)
        if i + 1 < len(sides):
            x_BlC = model.next_input(i + 1, vqvae.quantize.shrink(f_hat, i + 1))
            x_2BlC = x_BlC.repeat(2, 1, 1)
        if progress is not None:
            progress(i + 1, len(sides))
    return GenerationResult(vqvae.to_image(f_hat), tokens, logits if keep_logits else None)


def check_pair(model: Var, vqvae: Vqvae) -> None:
    """Raise ValueError when transformer and tokenizer do not belong together."""
    for name in ("patch_nums", "vocab", "z_channels"):
        ours, theirs = getattr(model.config, name), getattr(vqvae.config, name)
        if ours != theirs:
            raise ValueError(
                f"{name}: the transformer has {ours}, the VQVAE has {theirs}; load a matching pair"
            )


def resolve_labels(
    labels: Tensor | Sequence[int], num_classes: int, device: torch.device
) -> Tensor:
    """LongTensor [B] of class indices, -1 replaced by the null class. Raises ValueError."""
    labels_B = torch.as_tensor(labels, dtype=torch.long, device=device)
    if labels_B.dim() != 1 or labels_B.numel() == 0:
        raise ValueError(f"labels of shape {tuple(labels_B.shape)}: expected a non-empty list [B]")
    wrong = labels_B[(labels_B < -1) | (labels_B >= num_classes)]
    if wrong.numel():
        raise ValueError(
            f"label {int(wrong[0])}: the model has classes 0 to {num_classes - 1} "
            "(-1 for the null class)"
        )
    return torch.where(labels_B < 0, num_classes, labels_B)
