# SPDX-License-Identifier: Apache-2.0
"""Generation over passes: several images at once, each at its own scale.

Every image has its own random stream, and its arithmetic on the host does not depend on what
else is in the pass. With a transformer whose rows do not depend on each other, its tokens are the
same in every schedule, and those of `generate` for this label and seed alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lutvar.contract.editing import Edit, check_edits
from lutvar.contract.labels import Label, resolve_classes
from lutvar.contract.passes import ImageStep, Transformer, guidance_at
from lutvar.contract.sampling import TokenStream, filter_logits
from lutvar.contract.seeds import check_seed
from lutvar.contract.smoothing import smooth_weights
from lutvar.times import Times

from .blocks import KvCache
from .editing import edited_tokens, entering
from .generate import GenerationResult, check_pair
from .model import Conditioning, Var
from .sampling import TORCH, check_sampling, guide
from .vqvae import Vqvae


class _Sampling(NamedTuple):
    """What all images of a run share."""

    positions: Tensor
    smooth: bool
    top_k: int
    top_p: float


class _Image:
    """One image on its way through the scales."""

    def __init__(
        self, index: int, slot: int, label: int, seed: int, var: Var, start: Tensor,
        edit: Edit | None,
    ) -> None:  # fmt: skip
        config = var.config
        self.edits = None if edit is None else [edit]
        self.index, self.slot, self.label, self.scale = index, slot, label, 0
        self.stream = TokenStream(seed)
        side = config.patch_nums[-1]
        self.f_hat = torch.zeros(1, config.z_channels, side, side, dtype=torch.float32)
        # [2, l, C]: the halves differ at the first scale only.
        self.x = start
        self.tokens: list[Tensor] = []
        self.logits: list[Tensor] = []

    def step(self, var: Var, cfg: float) -> ImageStep:
        sides = var.config.patch_nums
        return ImageStep(
            slot=self.slot,
            label=self.label,
            position=sum(p * p for p in sides[: self.scale]),
            x_cond=self.x[0].numpy(),
            x_uncond=self.x[-1].numpy() if cfg else None,
            guidance=guidance_at(cfg, self.scale, len(sides)),
        )

    def make_bits(self, var: Var, smooth: bool) -> None:
        """Begin to make what the draw of this scale takes, while the transformer runs."""
        tokens = var.config.patch_nums[self.scale] ** 2
        self.stream.ahead(tokens * var.config.vocab * (2 if smooth else 1))

    def take(
        self, var: Var, vqvae: Vqvae, logits: NDArray[np.float32], how: _Sampling, times: Times
    ) -> None:
        """Draw a scale from logits and prepare the next one."""
        scales, weights = len(var.config.patch_nums), None
        with times("sampling"):
            if how.smooth:
                left = filter_logits(logits, how.top_k, how.top_p, TORCH)
                drawn = self.stream.draw(left, TORCH)
                noise = self.stream.gumbel(left, TORCH)
                mixed = smooth_weights(left, noise, self.scale, scales, TORCH.softmax)
                weights = torch.from_numpy(mixed).unsqueeze(0)
            else:
                drawn = self.stream.draw_filtered(logits, how.top_k, how.top_p, TORCH)
            tokens = torch.from_numpy(drawn).unsqueeze(0)
            if self.edits is not None:
                tokens = edited_tokens(self.edits, self.scale, tokens)
            self.tokens.append(tokens)
        with times("feature map"):
            entry = entering(vqvae.quantize, self.scale, tokens, weights, self.edits)
            self.f_hat = self.f_hat + vqvae.quantize.spread(self.scale, entry)
        self.scale += 1
        if self.scale < scales:
            with times("embeddings"):
                small = vqvae.quantize.shrink(self.f_hat, self.scale)
                self.x = var.next_input(self.scale, small, how.positions)


@torch.no_grad()
def generate_passes(
    var: Var,
    vqvae: Vqvae,
    transformer: Transformer,
    labels: Sequence[Label],
    seeds: Sequence[int],
    cfg: float = 1.5,
    top_k: int = 0,
    top_p: float = 0.0,
    slots: int | None = None,
    stagger: int = 0,
    progress: Callable[[int, int], None] | None = None,
    keep_logits: bool = False,
    times: Times | None = None,
    decode: Callable[[Tensor], Tensor] | None = None,
    edits: Sequence[Edit] | None = None,
    smooth: bool = False,
) -> GenerationResult:
    """Generate one image for each label and seed. Host arithmetic runs on the CPU in float32.

    Args:
        var: embeddings and sizes; its blocks are not run here.
        vqvae: the tokenizer that belongs to it.
        transformer: computes the logits.
        labels: class indices, -1 or num_classes for the null class, None for a class drawn from
            the image's seed (`random_class`).
        seeds: seed of each image.
        cfg: guidance at the last scale, rounded to 1/128 at each scale; 0 runs no second half.
        top_k, top_p: as in `generate`.
        slots: images in progress at once; default all.
        stagger: passes between the starts of two images. 0 starts one in every free slot; with 1
            and as many slots as scales, every pass holds each scale once.
        progress: called as progress(scales done, scales of all images) after each pass.
        keep_logits: keep the guided logits in the result.
        times: where the time of each part is counted; default: wall time.
        decode: makes an image in [0, 1] of a latent map; default: the tokenizer's decoder.
        edits, smooth: as in `generate`.

    Raises:
        ValueError: an argument out of range, model and tokenizer that do not fit each other, or
            edits that do not fit the model.
    """
    check_pair(var, vqvae)
    config = var.config
    check_sampling(cfg, top_k, top_p, config.vocab)
    for seed in seeds:
        check_seed(seed)
    classes = resolve_classes(labels, seeds, config.num_classes)
    if not classes:
        raise ValueError("no labels: expected one for each image")
    if edits is not None:
        check_edits(edits, len(classes), config.patch_nums, config.vocab)
    how = _Sampling(var.position_table(), smooth, top_k, top_p)
    times = times or Times()
    slots = len(classes) if slots is None else slots
    if slots < 1 or stagger < 0:
        raise ValueError(f"slots = {slots}, stagger = {stagger}: at least 1 and 0")
    scales = len(config.patch_nums)
    finished: dict[int, _Image] = {}
    active: list[_Image] = []
    begun, done, last_start, number = 0, 0, -stagger, 0
    while len(finished) < len(classes):
        free = sorted(set(range(slots)) - {image.slot for image in active})
        while begun < len(classes) and free and (not stagger or number - last_start >= stagger):
            label = classes[begun]
            with times("embeddings"):
                start = _start(var, label)
            edit = None if edits is None else edits[begun]
            active.append(_Image(begun, free.pop(0), label, seeds[begun], var, start, edit))
            begun, last_start = begun + 1, number
        # A long stagger may leave nothing to do for some passes.
        if active:
            for image in active:
                image.make_bits(var, smooth)
            with times("transformer"):
                results = transformer.run([image.step(var, cfg) for image in active])
            if keep_logits:
                for image, logits in zip(active, results, strict=True):
                    image.logits.append(torch.from_numpy(logits).unsqueeze(0))
            for image, logits in zip(active, results, strict=True):
                image.take(var, vqvae, logits, how, times)
            done += len(active)
            finished |= {image.index: image for image in active if image.scale == scales}
            active = [image for image in active if image.scale < scales]
            if progress is not None:
                progress(done, scales * len(classes))
        number += 1
    images = [finished[i] for i in range(len(classes))]
    with times("decoder"):
        pixels = torch.cat([(decode or vqvae.to_image)(image.f_hat) for image in images])
    return GenerationResult(
        pixels,
        [torch.cat([image.tokens[s] for image in images]) for s in range(scales)],
        [torch.cat([image.logits[s] for image in images]) for s in range(scales)]
        if keep_logits
        else None,
        times.seconds,
        tuple(classes),
    )


def _start(var: Var, label: int) -> Tensor:
    """Inputs of scale 0 of both halves, [2, p0*p0, C]."""
    cond_BD = var.class_emb(torch.tensor([label, var.config.num_classes]))
    return var.first_input(Conditioning(cond_BD, [], cond_BD, cond_BD))


@torch.no_grad()
def teacher_forced(
    var: Var,
    vqvae: Vqvae,
    transformer: Transformer,
    labels: Sequence[int],
    tokens: Sequence[Tensor],
) -> Tensor:
    """Conditional logits [B, L, V] of all scales, when the tokens of coarser scales are given.

    Args:
        var, vqvae, transformer: as for `generate_passes`.
        labels: class indices, one for each image.
        tokens: per scale a LongTensor [B, p*p]; those of the last scale are not used.
    """
    counts = [p * p for p in var.config.patch_nums]
    inputs = vqvae.quantize.teacher_inputs(list(tokens))
    positions = var.position_table()[:, counts[0] :]
    x_BLC = var.word_embed(inputs) + positions
    start_BlC = torch.cat([_start(var, label)[:1] for label in labels])
    position, parts = 0, []
    for x_BlC in torch.cat((start_BlC, x_BLC), 1).split(counts, 1):
        steps = [
            ImageStep(slot, label, position, x_BlC[slot].numpy(), None)
            for slot, label in enumerate(labels)
        ]
        parts.append(torch.from_numpy(np.stack(transformer.run(steps))))
        position += x_BlC.shape[1]
    return torch.cat(parts, 1)


class FloatTransformer:
    """Passes through the unquantized model, or through its blocks with another linear backend."""

    def __init__(self, var: Var) -> None:
        self.var = var
        self._caches: dict[int, list[KvCache]] = {}

    @torch.no_grad()
    def run(self, steps: Sequence[ImageStep]) -> list[NDArray[np.float32]]:
        """Logits of each step, float32 [n, vocab], guided if the step is."""
        return [self._step(step).numpy() for step in steps]

    def _step(self, step: ImageStep) -> Tensor:
        halves = [x for x in (step.x_cond, step.x_uncond) if x is not None]
        x = torch.from_numpy(np.stack(halves))
        cond = self.var.condition(torch.tensor([step.label, self.var.config.num_classes][: len(x)]))
        if step.position == 0:
            self._caches[step.slot] = self.var.new_cache()
        logits = self.var.scale_logits(x, cond, self._caches[step.slot])
        return guide(logits, step.guidance)[0] if step.x_uncond is not None else logits[0]
