# SPDX-License-Identifier: Apache-2.0
"""How good generated images are: agreement with the label, spread, distance to real ones.

The Fréchet distance here is the formula of the FID (arXiv:1706.08500, equation 6) on
the features of the small classifier; it compares runs of this model and
is not comparable with published FID values.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from lutvar.quant.eval.frechet import frechet_distance
from lutvar.quant.models.classifier import agreement
from lutvar.quant.models.judge import Judge, features_in_parts
from lutvar.quant.var import Var, Vqvae, generate

from .data import ImageSet

#: Training images that figures look at, at most.
_SOME = 5000


def sample_balanced(
    var: Var, vqvae: Vqvae, count: int, seed: int, cfg: float, top_k: int, top_p: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Images [N, C, H, W] in [0, 1], labels [N] cycling through the classes, tokens [N, L]."""
    labels = torch.arange(count) % var.config.num_classes
    images, tokens = [], []
    for i, part in enumerate(labels.split(100)):
        result = generate(var, vqvae, part, seed + i, cfg, top_k, top_p)
        images.append(result.images_BCHW)
        tokens.append(torch.cat(result.tokens, dim=1))
    return torch.cat(images), labels, torch.cat(tokens)


@torch.no_grad()
def measure_samples(
    data: ImageSet,
    classifier: Judge,
    vqvae: Vqvae,
    sampled: tuple[Tensor, Tensor, Tensor],
) -> dict[str, float]:
    """Figures of a set made by `sample_balanced`.

    Returns:
        agreement: share on which the classifier says the label.
        frechet: feature distance to the held-out images; frechet_real_train is that of the
            training images, the value to hope for.
        distinct: share of different token maps among the samples.
        copies: share of samples whose token maps are those of a training image.
        spread: mean pixel standard deviation within a class, divided by that of the held-out
            images.
    """
    images, labels, tokens = sampled
    real = (data.val_images + 1) / 2
    train = (data.train_images[:_SOME] + 1) / 2
    features = features_in_parts(classifier, real)
    train_tokens = {tuple(t) for t in _train_tokens(data, vqvae).tolist()}
    rows = [tuple(t) for t in tokens.tolist()]
    return {
        "agreement": agreement(classifier, images, labels),
        "frechet": frechet_distance(features_in_parts(classifier, images), features),
        "frechet_real_train": frechet_distance(features_in_parts(classifier, train), features),
        "distinct": len(set(rows)) / len(rows),
        "copies": sum(r in train_tokens for r in rows) / len(rows),
        "spread": _class_spread(images, labels) / _class_spread(real, data.val_labels),
    }


@torch.no_grad()
def measure_tokenizer(data: ImageSet, vqvae: Vqvae) -> dict[str, float]:
    """Reconstruction error on held-out images and number of codebook entries in use."""
    images, _ = data.monitor()
    mse = F.mse_loss(vqvae.decode(vqvae.encode(images)), (images + 1) / 2).item()
    train_tokens = _train_tokens(data, vqvae)
    return {
        "reconstruction_psnr_db": -10 * math.log10(mse),
        "used_entries": len(torch.unique(train_tokens)),
    }


@torch.no_grad()
def held_out_loss(data: ImageSet, var: Var, vqvae: Vqvae) -> float:
    """Cross entropy per token (nat) on the held-out images, with true coarser scales."""
    images, labels = data.monitor()
    tokens = vqvae.encode(images)
    logits = var(labels, vqvae.quantize.teacher_inputs(tokens))
    return F.cross_entropy(logits.flatten(0, 1), torch.cat(tokens, dim=1).flatten()).item()


def _train_tokens(data: ImageSet, vqvae: Vqvae) -> Tensor:
    """Tokens of training images, [N, L]."""
    parts = data.train_images[:_SOME].split(500)
    return torch.cat([torch.cat(vqvae.encode(part), dim=1) for part in parts])


def _class_spread(images: Tensor, labels: Tensor) -> float:
    deviations = [images[labels == c].std(0, correction=0).mean() for c in labels.unique()]
    return float(torch.stack(deviations).mean())
