# SPDX-License-Identifier: Apache-2.0
"""Image generation with RAR and PAR: the loop over passes with guidance and sampling.

Given equal weights and seed the tokens are those of the released implementations: one random
stream, one draw for each pass over all its positions of all images.

Source: the released samplers of RAR (arXiv:2411.00776) and PAR (arXiv:2412.15119); classifier-free
guidance (arXiv:2207.12598).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lutvar.contract.labels import class_index
from lutvar.quant.var.sampling import Streams, check_sampling, filter_logits

from .config import Sampling
from .model import TokenModel
from .par import Par, image_order
from .rar import Rar


@dataclass(frozen=True)
class TokenResult:
    """What one call of `generate_tokens` made.

    Attributes:
        tokens_BT: tokens in the order in which they were drawn.
        logits_BTV: guided logits before temperature, top-k and top-p, or None.
    """

    tokens_BT: Tensor
    logits_BTV: Tensor | None = None


@torch.no_grad()
def generate_tokens(
    model: TokenModel,
    labels_B: Tensor | Sequence[int],
    seed: int | Sequence[int],
    sampling: Sampling,
    progress: Callable[[int, int], None] | None = None,
    keep_logits: bool = False,
) -> TokenResult:
    """Draw the tokens of one image for each label.

    Args:
        model: the transformer, in evaluation mode.
        labels_B: class indices 0 .. num_classes - 1, -1 or num_classes for the null class.
        seed: seed of the one random stream, and the batch is part of what it determines; or one
            seed for each image, whose draws then do not depend on the batch.
        sampling: how tokens are drawn. Without guidance (`guided` says so) the null class does not
            run.
        progress: called as progress(passes done, passes) after each pass.
        keep_logits: keep the guided logits, 4 bytes times images, tokens and vocabulary.

    Raises:
        ValueError: a label or sampling setting out of range.
    """
    config = model.config
    check_settings(sampling, config.vocab)
    device = model.head.weight.device
    indices = [class_index(int(label), config.num_classes) for label in labels_B]
    labels_B = torch.tensor(indices, dtype=torch.long, device=device)
    streams = Streams(seed, len(indices), device)
    if isinstance(model, Rar):
        # RAR's sampler first draws which labels to drop, none of them, from the same stream.
        streams.discard(len(indices))
    halves = 2 if guided(model, sampling) else 1
    null_B = torch.full_like(labels_B, config.num_classes)
    rows_B = torch.cat((labels_B, null_B)) if halves == 2 else labels_B
    tokens_BT = labels_B.new_empty(len(labels_B), 0)
    cache, kept = model.new_cache(), []
    for index in range(len(model.passes)):
        logits_BlV = model.pass_logits(index, rows_B, tokens_BT.repeat(halves, 1), cache)
        if model.passes[index][1] > model.lead:
            if halves == 2:
                cond, uncond = logits_BlV.chunk(2)
                logits_BlV = uncond + (cond - uncond) * guidance(
                    sampling, tokens_BT.shape[1], config.tokens
                )
            if keep_logits:
                kept.append(logits_BlV)
            scaled = logits_BlV / sampling.temperature
            drawn_Bl = streams.draw(filter_logits(scaled, sampling.top_k, sampling.top_p))
            tokens_BT = torch.cat((tokens_BT, drawn_Bl), 1)
        if progress is not None:
            progress(index + 1, len(model.passes))
    return TokenResult(tokens_BT, torch.cat(kept, 1) if keep_logits else None)


def rows_of_image(model: TokenModel, tokens_BT: Tensor) -> Tensor:
    """Tokens as they were drawn, row by row of the image."""
    return image_order(tokens_BT, model.config.group) if isinstance(model, Par) else tokens_BT


def guidance(sampling: Sampling, token: int, tokens: int) -> float:
    """Weight g of the conditional logits when `token` of `tokens` is drawn, rounded to float32."""
    if sampling.power is None:
        return sampling.cfg
    # In float32, as released: near-equal logits decide by the last bit.
    power = torch.ones(1, dtype=torch.float32) * sampling.power
    rise = (1 - torch.cos((token / tokens) ** power * math.pi)) * 1 / 2
    return float((sampling.cfg - 1) * rise + 1)


def guided(model: TokenModel, sampling: Sampling) -> bool:
    """Whether the null class runs beside each label; the families differ in what turns it off."""
    return sampling.cfg != 0 if isinstance(model, Rar) else sampling.cfg > 1


def check_settings(sampling: Sampling, vocab: int) -> None:
    """Raise ValueError when a sampling setting is out of range."""
    check_sampling(sampling.cfg, sampling.top_k, sampling.top_p, vocab)
    if not 0 < sampling.temperature < math.inf:
        raise ValueError(f"temperature = {sampling.temperature!r}: must be above 0")
    if sampling.power is not None and not 0 <= sampling.power < math.inf:
        raise ValueError(f"power = {sampling.power!r}: must be 0 (constant guidance) or more")
