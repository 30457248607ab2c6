# SPDX-License-Identifier: Apache-2.0
"""What quantization costs a model: logits under teacher forcing, and judged images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lutvar.contract.passes import Transformer
from lutvar.contract.quant_preset import load_quant
from lutvar.quant.golden.distance import kl_divergence, relative_error, token_agreement
from lutvar.quant.models import LoadedModel
from lutvar.quant.models.classifier import agreement
from lutvar.quant.var.passes import FloatTransformer, generate_passes, teacher_forced

from .variants import variants

#: Images in one pass.
_SLOTS = 50


@dataclass(frozen=True)
class Quality:
    """Figures of one transformer.

    Attributes:
        preset, name: which one.
        kl_nats: mean KL divergence of a token's distribution from the float model's.
        agreement: share of tokens whose most likely value is the float model's.
        error: relative error of the logits.
        requested: share of generated images that the judge gives the requested class.
        same_tokens: share of sampled tokens equal to those of the float model, same seeds.
    """

    preset: str
    name: str
    kl_nats: float
    agreement: float
    error: float
    requested: float
    same_tokens: float


def measure(
    model: LoadedModel,
    presets: list[str],
    images: int = 500,
    teacher_images: int = 100,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> list[Quality]:
    """Compare every variant of every preset with the float model.

    Teacher tokens are samples of the float model at its own guidance. Image i has class i modulo
    the number of classes and seed `seed + i`, for every variant.

    Args:
        model: a model with a classifier.
        presets: names of quantization presets.
        images: images to generate and judge.
        teacher_images: images whose tokens are given, at most `images`.
        seed: first seed.
        progress: called as progress(steps done, steps).
    """
    var, info = model.var, model.info
    labels = [i % var.config.num_classes for i in range(images)]
    teacher_images = min(teacher_images, images)
    judge = model.classifier()
    plans = [(p, n, make) for p in presets for n, make in variants(var, load_quant(p)).items()]
    steps = 2 * (len(plans) + 1)
    done = 0

    def tick() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, steps)

    def sample(transformer: Transformer) -> tuple[Tensor, float]:
        seeds = range(seed, seed + images)
        result = generate_passes(
            var, model.vqvae, transformer, labels, seeds, info.cfg, info.top_k, info.top_p,
            slots=min(images, _SLOTS),
        )  # fmt: skip
        share = agreement(judge, result.images_BCHW, torch.tensor(labels))
        tick()
        return torch.cat(result.tokens, 1), share

    def force(transformer: Transformer, tokens: Tensor) -> Tensor:
        counts = [p * p for p in var.config.patch_nums]
        parts = list(tokens[:teacher_images].split(counts, 1))
        logits = teacher_forced(var, model.vqvae, transformer, labels[:teacher_images], parts)
        tick()
        return logits

    true_tokens, float_share = sample(FloatTransformer(var))
    true_logits = force(FloatTransformer(var), true_tokens)
    table = [Quality("float", "unquantized", 0.0, 1.0, 0.0, float_share, 1.0)]
    for preset, name, make in plans:
        logits = force(make(), true_tokens)
        tokens, share = sample(make())
        table.append(
            Quality(
                preset,
                name,
                kl_divergence(true_logits, logits),
                token_agreement(true_logits, logits),
                relative_error(true_logits, logits),
                share,
                float(np.mean((tokens == true_tokens).numpy())),
            )
        )
    return table
