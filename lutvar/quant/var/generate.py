# SPDX-License-Identifier: Apache-2.0
"""Image generation: the loop over scales with guidance, sampling and the latent map.

Given equal weights and seed the tokens are those of the released implementation:
one random stream, one draw per scale over all positions of all images. With a
seed for each image its draws do not depend on what else is in the batch.

Given images are edited (`edits`) and samples smoothed (`smooth`) in the feature map alone; the
order of random numbers is the same with and without.

Source: VAR (arXiv:2404.02905), section 3.2 and its released sampler; its notebook for editing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lutvar.contract.editing import Edit, check_edits
from lutvar.contract.labels import RANDOM, Label, class_index, random_class
from lutvar.contract.smoothing import smooth_weights

from .editing import edited_tokens, entering
from .model import Var
from .sampling import Streams, check_sampling, filter_logits, guidance_weight, guide
from .vqvae import Vqvae


@dataclass(frozen=True)
class GenerationResult:
    """What one call of `generate` made.

    Attributes:
        images_BCHW: float32 in [0, 1].
        tokens: per scale a LongTensor [B, p*p]; of an edited image the given ones where they
            stay. With smooth sampling the drawn ones, which are not what the image is made of.
        logits: per scale the guided logits [B, p*p, V] before top-k/top-p, or None.
        seconds: wall time of all images by part: transformer, sampling, feature map, embeddings,
            decoder; empty when it was not measured.
        labels: class index of each image, num_classes for the null class.
    """

    images_BCHW: Tensor
    tokens: list[Tensor]
    logits: list[Tensor] | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    labels: tuple[int, ...] = ()


@torch.no_grad()
def generate(
    model: Var,
    vqvae: Vqvae,
    labels_B: Tensor | Sequence[Label],
    seed: int | Sequence[int],
    cfg: float = 1.5,
    top_k: int = 0,
    top_p: float = 0.0,
    progress: Callable[[int, int], None] | None = None,
    keep_logits: bool = False,
    edits: Sequence[Edit] | None = None,
    smooth: bool = False,
) -> GenerationResult:
    """Generate one image per label.

    Args:
        model: the transformer; put in evaluation mode by the caller.
        vqvae: the tokenizer with the same scales, vocabulary and latent channels.
        labels_B: class indices 0 .. num_classes-1, -1 or num_classes for the null class, None for
            a random class.
        seed: seed of the one random stream, and the batch is part of what it determines; or one
            seed for each image, whose draws then do not depend on the batch.
        cfg: guidance at the last scale (0 at the first, linear between); 0 turns it off.
        top_k: draw among the k most likely tokens; 0 is all.
        top_p: draw among the most likely tokens of this total probability; 0 is all.
        progress: called as progress(scales done, scales) after each scale.
        keep_logits: keep the guided logits in the result.
        edits: given images and what stays of them, one for each label; default: none is given.
        smooth: put mixtures of codebook entries into the map (`lutvar.contract.smoothing`).

    Raises:
        ValueError: a label or sampling setting out of range, model and tokenizer that do not fit
            each other, or edits that do not fit the model.
    """
    check_pair(model, vqvae)
    config = model.config
    check_sampling(cfg, top_k, top_p, config.vocab)
    given, device = _listed(labels_B), model.lvl_1L.device
    sides, B = config.patch_nums, len(given)
    streams = Streams(seed, B, device)
    labels_B = _classes(given, seed, streams, config.num_classes).to(device)
    if edits is not None:
        check_edits(edits, B, sides, config.vocab)

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
        left_BlV = filter_logits(logits_BlV, top_k, top_p)
        tokens_Bl, weights_BlV = streams.draw(left_BlV), None
        if smooth:
            noise_BlV = streams.gumbel(left_BlV)
            weights_BlV = smooth_weights(left_BlV, noise_BlV, i, len(sides), _softmax)
        if edits is not None:
            tokens_Bl = edited_tokens(edits, i, tokens_Bl)
        tokens.append(tokens_Bl)
        map_BZpp = entering(vqvae.quantize, i, tokens_Bl, weights_BlV, edits)
        f_hat = f_hat + vqvae.quantize.spread(i, map_BZpp)
        if i + 1 < len(sides):
            x_BlC = model.next_input(i + 1, vqvae.quantize.shrink(f_hat, i + 1))
            x_2BlC = x_BlC.repeat(2, 1, 1)
        if progress is not None:
            progress(i + 1, len(sides))
    return GenerationResult(
        vqvae.to_image(f_hat), tokens, logits if keep_logits else None,
        labels=tuple(labels_B.tolist()),
    )  # fmt: skip


def _softmax(values: Tensor) -> Tensor:
    return values.softmax(-1)


def _listed(labels: Tensor | Sequence[Label]) -> list[Any]:
    """Labels as a list. Raises ValueError when there is none, or a tensor has another shape."""
    if isinstance(labels, Tensor):
        if labels.dim() != 1:
            raise ValueError(f"labels of shape {tuple(labels.shape)}: expected a list [B]")
        labels = labels.tolist()
    if not len(labels):
        raise ValueError("no labels: expected one for each image")
    return list(labels)


def _classes(
    labels: Sequence[Label], seed: int | Sequence[int], streams: Streams, num_classes: int
) -> Tensor:
    """LongTensor [B] of class indices; random ones come from the one stream, before all tokens."""
    random = [i for i, label in enumerate(labels) if label is RANDOM]
    indices = [0 if label is RANDOM else class_index(label, num_classes) for label in labels]
    drawn = streams.classes(len(random), num_classes) if random else None
    for i, position in enumerate(random):
        if drawn is not None:
            indices[position] = int(drawn[i])
        elif not isinstance(seed, int):
            indices[position] = random_class(seed[position], num_classes)
    return torch.tensor(indices)


def check_pair(model: Var, vqvae: Vqvae) -> None:
    """Raise ValueError when transformer and tokenizer do not belong together."""
    for name in ("patch_nums", "vocab", "z_channels"):
        ours, theirs = getattr(model.config, name), getattr(vqvae.config, name)
        if ours != theirs:
            raise ValueError(
                f"{name}: the transformer has {ours}, the VQVAE has {theirs}; load a matching pair"
            )
