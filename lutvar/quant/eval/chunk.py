# SPDX-License-Identifier: Apache-2.0
"""One chunk of samples: the images of consecutive numbers, with their tokens and features.

Image i of a run has class i modulo the number of classes and a stream of its own, so it does not
matter which process makes it. Tokens and features of a chunk are computed in one batch and on one
thread, so they are the same to the last bit on equal machines.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lutvar.quant.models.judge import Judge

from .settings import SampleSettings, image_labels, image_seed
from .subject import Subject


def chunks_of(samples: int, settings: SampleSettings) -> range:
    """Numbers of the chunks that hold the first `samples` images; the last may hold more."""
    return range(-(-samples // settings.chunk))


@torch.no_grad()
def make_chunk(
    subject: Subject, judge: Judge | None, settings: SampleSettings, seed: int, chunk: int
) -> dict[str, Tensor]:
    """Make the images of one chunk.

    Returns:
        `tokens` [n, L] int32; with a judge `features` [n, D] float32; if kept `images`
        [n, C, H, W] uint8, rounded towards zero as the published evaluation does.
    """
    first = chunk * settings.chunk
    labels = image_labels(first, settings.chunk, subject.model.var.config.num_classes)
    seeds = [image_seed(seed, first + i) for i in range(settings.chunk)]
    generation = subject.draw(labels, seeds, settings)
    result = {"tokens": torch.cat(generation.tokens, 1).int()}
    if judge is not None:
        result["features"] = judge.features(generation.images_BCHW)
    if settings.keep_images:
        result["images"] = generation.images_BCHW.mul(255).byte()
    return result
