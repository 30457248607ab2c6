# SPDX-License-Identifier: Apache-2.0
"""The figures of one set of samples, alone and against the unquantized model's with equal seeds."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lutvar.quant.models.judge import Judge
from lutvar.quant.var import Vqvae

from .frechet import distance, gaussian
from .neighbours import precision_recall
from .reference import Reference
from .scores import class_agreement, class_score

#: Images are decoded again for the pixel distance: at most so many, `_PART` at a time.
PIXEL_IMAGES = 1000
_PART = 50
#: PSNR of equal images in the mean over images, about that of rounding to 8 bits.
PSNR_CAP_DB = 60.0


@dataclass(frozen=True)
class SampleFigures:
    """Samples against real images, on the features of the model's classifier.

    Attributes:
        frechet, frechet_train: Fréchet distance to the test and to the training images.
        score, score_splits: class score and the number of parts it is the mean of.
        precision, recall: k-NN, with `points` samples and real images each.
        agreement: share of samples that the classifier gives the requested class.
    """

    frechet: float
    frechet_train: float
    score: float
    score_splits: int
    precision: float
    recall: float
    points: int
    agreement: float


@dataclass(frozen=True)
class PairedFigures:
    """Samples against those of the unquantized model with the same seeds and classes.

    Attributes:
        frechet: Fréchet distance between the two sets.
        feature_mse: mean squared difference of a feature, image by image.
        psnr_db: mean over images of the pixel PSNR, equal images counted as 60 dB.
        psnr_pooled_db: PSNR of the mean squared error over all pixels.
        equal_images: share of images with all tokens equal.
        tokens: share of equal tokens.
        tokens_of_scale: the same for each scale.
        pixel_images: how many images the PSNR is over.
    """

    frechet: float
    feature_mse: float
    psnr_db: float
    psnr_pooled_db: float
    equal_images: float
    tokens: float
    tokens_of_scale: tuple[float, ...]
    pixel_images: int


@torch.no_grad()
def sample_figures(
    features_ND: Tensor, labels_N: Tensor, judge: Judge, reference: Reference
) -> SampleFigures:
    """Measure features of samples whose requested classes are given."""
    fitted = gaussian(features_ND)
    logits_NK = judge.classify(features_ND)
    score = class_score(logits_NK)
    share = precision_recall(features_ND, reference.neighbours_ND)
    return SampleFigures(
        frechet=distance(fitted, reference.test),
        frechet_train=distance(fitted, reference.train),
        score=score.mean,
        score_splits=score.splits,
        precision=share.precision,
        recall=share.recall,
        points=share.points,
        agreement=class_agreement(logits_NK, labels_N),
    )


@torch.no_grad()
def paired_figures(
    vqvae: Vqvae,
    exact: tuple[Tensor, Tensor],
    value: tuple[Tensor, Tensor],
) -> PairedFigures:
    """Compare samples with the unquantized model's.

    Args:
        vqvae: decodes the tokens.
        exact, value: features [N, D] and tokens [N, L] of the unquantized model and of the other.
    """
    (a_ND, a_NL), (b_ND, b_NL) = exact, value
    same_NL = a_NL == b_NL
    counts = [p * p for p in vqvae.config.patch_nums]
    pixels = min(len(a_NL), PIXEL_IMAGES)
    pairs = zip(a_NL[:pixels].split(_PART), b_NL[:pixels].split(_PART), strict=True)
    error_N = torch.cat([_pixel_error(vqvae, *pair) for pair in pairs])
    return PairedFigures(
        frechet=distance(gaussian(a_ND), gaussian(b_ND)),
        feature_mse=float((a_ND.double() - b_ND.double()).square().mean()),
        psnr_db=float((-10 * error_N.log10()).clamp_max(PSNR_CAP_DB).mean()),
        psnr_pooled_db=float(-10 * error_N.mean().log10()),
        equal_images=float(same_NL.all(1).double().mean()),
        tokens=float(same_NL.double().mean()),
        tokens_of_scale=tuple(float(s.double().mean()) for s in same_NL.split(counts, 1)),
        pixel_images=pixels,
    )


def _pixel_error(vqvae: Vqvae, a_NL: Tensor, b_NL: Tensor) -> Tensor:
    """Mean squared error of the pixels of each image, [N] float64."""
    device = vqvae.quantize.embedding.weight.device
    counts = [p * p for p in vqvae.config.patch_nums]
    a, b = (vqvae.decode(list(t.long().to(device).split(counts, 1))) for t in (a_NL, b_NL))
    return (a - b).square().mean((1, 2, 3)).double().cpu()
