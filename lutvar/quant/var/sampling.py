# SPDX-License-Identifier: Apache-2.0
"""Guidance and token sampling: logits of one scale to token indices.

Source: VAR (arXiv:2404.02905) and its released sampler; classifier-free guidance
(arXiv:2207.12598), nucleus sampling (arXiv:1904.09751).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lutvar.contract.sampling import LEAST_EXPONENTIAL, Library
from lutvar.contract.seeds import check_seed

#: For `lutvar.contract.sampling`: the decisions of the functions below, to the last bit.
TORCH = Library(
    lambda logits: torch.from_numpy(logits).softmax(-1).numpy(),
    lambda row: torch.from_numpy(row).sort().indices.numpy(),
    lambda values: torch.from_numpy(values).log().numpy(),
)


def guidance_weight(cfg: float, scale_index: int, scales: int) -> float:
    """Guidance t of one scale: 0 at the first, rising linearly to cfg at the last."""
    return cfg * (scale_index / (scales - 1))


def guide(logits_2BlV: Tensor, weight: float | Tensor) -> Tensor:
    """(1 + t) conditional - t unconditional, [B, l, V].

    Args:
        logits_2BlV: conditional rows first, then the unconditional rows of the same images.
        weight: t, see `guidance_weight`; or one for each position, [l, 1].
    """
    half = logits_2BlV.shape[0] // 2
    return (1 + weight) * logits_2BlV[:half] - weight * logits_2BlV[half:]


def check_sampling(cfg: float, top_k: int, top_p: float, vocab: int) -> None:
    """Raise ValueError when a sampling setting is out of range."""
    if not 0.0 <= cfg < float("inf"):
        raise ValueError(f"cfg = {cfg!r}: guidance must be a finite number, 0 (off) or more")
    if not isinstance(top_k, int) or not 0 <= top_k <= vocab:
        raise ValueError(
            f"top_k = {top_k!r}: must be a whole number from 0 (off) to the vocabulary, {vocab}"
        )
    if not 0.0 <= top_p <= 1.0:
        raise ValueError(f"top_p = {top_p!r}: must be from 0 (off) to 1")


def filter_logits(logits_BlV: Tensor, top_k: int, top_p: float) -> Tensor:
    """Set the logits that may not be drawn to -inf; the input is left as it is.

    top_k keeps the k largest and all that tie with the k-th. top_p then drops the least likely
    ones whose probabilities add up to at most 1 - top_p, never the most likely one. 0 turns
    either off.
    """
    if top_k > 0:
        kth = logits_BlV.topk(top_k, dim=-1, sorted=False).values.amin(dim=-1, keepdim=True)
        logits_BlV = logits_BlV.masked_fill(logits_BlV < kth, -torch.inf)
    if top_p > 0:
        ascending, order = logits_BlV.sort(dim=-1, descending=False)
        drop = ascending.softmax(dim=-1).cumsum(dim=-1) <= (1 - top_p)
        drop[..., -1] = False
        logits_BlV = logits_BlV.masked_fill(drop.scatter(-1, order, drop), -torch.inf)
    return logits_BlV


def draw(logits_BlV: Tensor, generator: torch.Generator) -> Tensor:
    """One token per position, LongTensor [B, l]: a single multinomial draw over all rows."""
    B, length, vocab = logits_BlV.shape
    rows = logits_BlV.softmax(dim=-1).view(-1, vocab)
    drawn = torch.multinomial(rows, num_samples=1, replacement=True, generator=generator)
    return drawn.view(B, length)


def draw_independent(logits_BlV: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
    """One token per position, LongTensor [B, l], every image from its own stream.

    Equal to `draw` on each image alone with its generator, without its loop over images: torch's
    multinomial takes the largest ratio of probability to an exponential variable. Small changes of
    the logits therefore change few tokens.

    Args:
        logits_BlV: filtered logits.
        generators: one for each image, on the CPU, so that all devices draw the same.
    """
    noise_BlV = torch.empty(logits_BlV.shape, dtype=torch.float32)
    for noise_lV, generator in zip(noise_BlV, generators, strict=True):
        noise_lV.exponential_(1, generator=generator)
    return (logits_BlV.softmax(-1) / noise_BlV.to(logits_BlV.device)).argmax(-1)


class Streams:
    """Random numbers of a batch: one stream for all images, or one for each.

    Args:
        seed: of the one stream, or one for each image.
        images: B.
        device: where the logits are.

    Raises:
        ValueError: seeds for another number of images, or not from 0 to `MAX_SEED`.
    """

    def __init__(self, seed: int | Sequence[int], images: int, device: torch.device) -> None:
        self._shared: torch.Generator | None = None
        self._own: list[torch.Generator] = []
        if isinstance(seed, int):
            self._shared = torch.Generator(device=device).manual_seed(check_seed(seed))
            return
        if len(seed) != images:
            raise ValueError(f"{images} labels and {len(seed)} seeds; one seed for each image")
        # On the CPU, so that all devices draw the same.
        self._own = [torch.Generator().manual_seed(check_seed(s)) for s in seed]

    def classes(self, count: int, num_classes: int) -> Tensor | None:
        """Random classes LongTensor [count] from the one stream; None when each image has its own.

        Before anything else is drawn they are those of the released sampler without labels.
        """
        if self._shared is None:
            return None
        even = torch.full((1, num_classes), 1 / num_classes, device=self._shared.device)
        drawn = torch.multinomial(even, count, replacement=True, generator=self._shared)
        return drawn.reshape(count)

    def discard(self, count: int) -> None:
        """Take `count` uniform numbers from the one stream, which other samplers draw first."""
        if self._shared is not None:
            torch.rand(count, generator=self._shared, device=self._shared.device)

    def draw(self, logits_BlV: Tensor) -> Tensor:
        """One token for each position, LongTensor [B, l], from filtered logits."""
        if self._shared is None:
            return draw_independent(logits_BlV, self._own)
        return draw(logits_BlV, self._shared)

    def gumbel(self, logits_BlV: Tensor) -> Tensor:
        """Gumbel noise for smooth sampling, float32 of the logits' shape; follows the draw."""
        noise = torch.empty_like(logits_BlV, memory_format=torch.contiguous_format)
        if self._shared is None:
            own = torch.empty(logits_BlV.shape, dtype=torch.float32)
            for noise_lV, generator in zip(own, self._own, strict=True):
                noise_lV.exponential_(1, generator=generator)
            noise.copy_(own)
        else:
            noise.exponential_(1, generator=self._shared)
        return -noise.clamp_min(float(LEAST_EXPONENTIAL)).log()
