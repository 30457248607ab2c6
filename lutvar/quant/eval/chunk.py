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

from .settings import GENERATE, SampleSettings, image_labels, image_seed
from .subject import Subject
from .tasks import EditTask


def chunks_of(samples: int, settings: SampleSettings) -> range:
    """Numbers of the chunks that hold the first `samples` images; the last may hold more."""
    return range(-(-samples // settings.chunk))


@torch.no_grad()
def make_chunk(
    subject: Subject,
    judge: Judge | None,
    settings: SampleSettings,
    seed: int,
    chunk: int,
    given_NL: Tensor | None = None,
) -> dict[str, Tensor]:
    """Make the images of one chunk.

    Args:
        subject, judge, settings, seed, chunk: what.
        given_NL: tokens that make the given images of an editing task.

    Returns:
        `tokens` [n, L] int32; with a judge `features` [n, D] float32, and of edited images
        `region` [n, D]; if kept `images` [n, C, H, W] uint8, rounded towards zero as the published
        evaluation does.
    """
    model, first = subject.model, chunk * settings.chunk
    numbers = range(first, first + settings.chunk)
    labels = image_labels(first, settings.chunk, model.var.config.num_classes)
    task = edit_task(subject, settings)
    edits = None
    if task is not None:
        assert given_NL is not None, "an editing task needs given images"
        labels, edits = task.labels(numbers), task.edits(model.vqvae, given_NL)
    seeds = [image_seed(seed, i) for i in numbers]
    images = subject.draw(labels, seeds, settings, edits)
    result = {"tokens": torch.cat(images.tokens, 1).int()}
    if judge is not None:
        result["features"] = judge.features(images.images_BCHW)
        if task is not None:
            result["region"] = task.region_features(judge, images.images_BCHW)
    if settings.keep_images:
        result["images"] = images.images_BCHW.mul(255).byte()
    return result


def edit_task(subject: Subject, settings: SampleSettings) -> EditTask | None:
    """The editing task of some settings, or None for generation."""
    if settings.task == GENERATE:
        return None
    config = subject.model.var.config
    return EditTask(settings.task, config.patch_nums, config.num_classes)  # type: ignore[arg-type]
