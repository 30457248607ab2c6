# SPDX-License-Identifier: Apache-2.0
"""How much each linear contributes to the class that a classifier sees in the image.

Source: LRP-QViT (arXiv:2401.11243), which propagates relevance from a vision transformer's class
score to its layers and gives bits by it. VAR has no class score of its own, but its image does: the
expected embedding of every scale's tokens makes a feature map, the tokenizer's decoder an image,
the model's classifier a score. All of that has a gradient, and an output times its gradient is the
share of the score that it explains (relevance by gradient times input).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from lutvar.quant.methods.errors import CalibrationError
from lutvar.quant.var import Var, Vqvae
from lutvar.quant.var.sites import SITE_NAMES

from .importance import RecordedOutputs
from .samples import CalibrationSet

#: Logits [B, classes] of images [B, C, H, W] in [0, 1].
Classify = Callable[[Tensor], Tensor]
_BATCH = 4


def expected_image(vqvae: Vqvae, logits_BLV: Tensor) -> Tensor:
    """Image in [0, 1] of the mean embedding of every token, with a gradient for the logits."""
    quantizer = vqvae.quantize
    mean_BLZ = logits_BLV.softmax(-1) @ quantizer.embedding.weight
    parts = mean_BLZ.split([side * side for side in quantizer.patch_nums], 1)
    maps = [quantizer.spread(k, quantizer.as_map(k, part)) for k, part in enumerate(parts)]
    return vqvae.to_image(torch.stack(maps).sum(0))


def class_relevance(
    var: Var, vqvae: Vqvae, classify: Classify, calibration: CalibrationSet
) -> Tensor:
    """Relevance of the block linears, [blocks, linears in the order of `SITE_NAMES`], mean 1.

    Of a linear it is the sum over its output channels of the magnitude of what the channel's
    values at all tokens explain of the score of the sample's class, mean over samples.

    Args:
        var, vqvae: the float model; not changed.
        classify: the classifier.
        calibration: samples; their conditional rows are run on given tokens.

    Raises:
        CalibrationError: no relevance anywhere, or one that is not finite.
    """
    outputs = RecordedOutputs(SITE_NAMES)
    total = torch.zeros(var.config.depth, len(SITE_NAMES), dtype=torch.float32)
    with var.backends.replaced(outputs), torch.enable_grad():
        for labels_B, latent_BLZ in zip(
            calibration.labels_N.split(_BATCH), calibration.inputs_NLZ.split(_BATCH), strict=True
        ):
            outputs.results = []
            image_BCHW = expected_image(vqvae, var(labels_B, latent_BLZ))
            score = classify(image_BCHW).gather(1, labels_B.unsqueeze(1)).sum()
            results = [y_BLO for _, y_BLO in outputs.results]
            for (site, y_BLO), g_BLO in zip(
                outputs.results, torch.autograd.grad(score, results), strict=True
            ):
                explained_BO = (y_BLO.detach() * g_BLO).sum(1)
                place = SITE_NAMES.index(site.name)
                total[site.block, place] += float(explained_BO.abs().sum())
    if not bool(total.isfinite().all()) or not bool((total > 0).any()):
        raise CalibrationError(
            "calibration.relevance: the classifier's score does not depend on the linears, or not "
            "in finite numbers; check model and classifier"
        )
    return total / total.mean()
