# SPDX-License-Identifier: Apache-2.0
"""Editing as a task of the evaluation: in-painting, out-painting, class-conditional editing.

Image i of a run edits a given image: one that the unquantized model has drawn, of class i modulo
the number of classes, from a stream that no run draws from, decoded and encoded again as any image
file would be. A model folder has no real images, so that evaluating needs no data set. The box is
that of VAR's released notebook; in-painting and editing regenerate it, out-painting what is around
it. As there, the label is the null class for in- and out-painting; editing asks for the class
behind that of the given image. Sampling is the model's own, without smoothing.

Source of the tasks: VAR (arXiv:2404.02905), section 5.3, on which the Shift-and-Sum paper
evaluates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lutvar.contract.editing import Edit, masks_of
from lutvar.contract.labels import NO_CLASS
from lutvar.contract.regions import box_mask
from lutvar.quant.models.judge import Judge
from lutvar.quant.var import Vqvae
from lutvar.quant.var.editing import encode_edits

from .figures import PSNR_CAP_DB
from .frechet import distance, gaussian
from .settings import last_seed

TaskName = Literal["inpaint", "outpaint", "edit"]
TASKS: tuple[TaskName, ...] = ("inpaint", "outpaint", "edit")
#: Top, left, bottom, right of the box, as fractions; cells are rounded.
BOX = (0.1, 0.1, 0.8, 0.8)
#: Value of the pixels that stay when features of the regenerated region are asked for.
_GREY = 0.5
_PART = 50


@dataclass(frozen=True)
class EditTask:
    """One of the tasks on a model.

    Attributes:
        name: which one.
        patch_nums: sides of the model's token maps.
        classes: number of classes.
    """

    name: TaskName
    patch_nums: tuple[int, ...]
    classes: int

    @property
    def mask(self) -> np.ndarray[tuple[int, int], np.dtype[np.bool_]]:
        """Over the last token map, True where the given image stays."""
        return box_mask(BOX, self.patch_nums[-1], outside=self.name == "outpaint")

    @property
    def regenerated_L(self) -> Tensor:
        """True for each token that is drawn, [L]."""
        masks = masks_of(self.mask, self.patch_nums)
        return torch.from_numpy(~np.concatenate([mask.reshape(-1) for mask in masks]))

    def labels(self, images: Sequence[int]) -> list[int]:
        """Labels of a run's images."""
        return [self.target(i) if self.name == "edit" else NO_CLASS for i in images]

    def target(self, image: int) -> int:
        """The class that an image should show: the given image's, or the one after it."""
        return (image + (self.name == "edit")) % self.classes

    def pixels(self, size: int) -> Tensor:
        """True for each pixel of a regenerated cell of the last map, [size, size]."""
        cell = size // self.patch_nums[-1]
        return torch.from_numpy(np.kron(~self.mask, np.ones((cell, cell), bool)))

    def edits(self, vqvae: Vqvae, tokens_NL: Tensor) -> list[Edit]:
        """Edits of the images that these tokens make."""
        return encode_edits(vqvae, 2 * decoded(vqvae, tokens_NL) - 1, self.mask)

    def region_features(self, judge: Judge, images_BCHW: Tensor) -> Tensor:
        """Features [B, D] of the regenerated region: what stays is grey in all images."""
        pixels = self.pixels(images_BCHW.shape[-1]).to(images_BCHW.device)
        grey = torch.full_like(images_BCHW, _GREY)
        return judge.features(torch.where(pixels, images_BCHW, grey))


def given_seed(seed: int) -> int:
    """The run from which a run's given images are: the last seeds, which nobody counts up to."""
    return last_seed() - seed


def decoded(vqvae: Vqvae, tokens_NL: Tensor) -> Tensor:
    """Images [N, C, H, W] in [0, 1]."""
    counts = [p * p for p in vqvae.config.patch_nums]
    parts = [vqvae.decode(list(t.long().split(counts, 1))) for t in tokens_NL.split(_PART)]
    return torch.cat(parts)


@dataclass(frozen=True)
class RegionFigures:
    """The regenerated region of edited images; the last four are None for the unquantized model.

    Attributes:
        frechet: Fréchet distance of its features to those of the given images, equally greyed.
        kept: share of kept tokens that are the given ones: 1, or something is broken.
        frechet_float: distance to the unquantized model's, same given images and seeds.
        feature_mse: mean squared difference of a feature, image by image.
        psnr_db: of the region's pixels against the unquantized model's, mean over images.
        tokens: share of drawn tokens equal to the unquantized model's.
    """

    frechet: float
    kept: float
    frechet_float: float | None = None
    feature_mse: float | None = None
    psnr_db: float | None = None
    tokens: float | None = None


class Edited(NamedTuple):
    """Edited images of one run: features of the region [N, D] and tokens [N, L]."""

    region_ND: Tensor
    tokens_NL: Tensor


@torch.no_grad()
def region_figures(
    task: EditTask, vqvae: Vqvae, given: Edited, exact: Edited, value: Edited, alone: bool
) -> RegionFigures:
    """Measure edited images.

    Args:
        task: which.
        vqvae: decodes tokens.
        given: region of the given images, and their tokens once encoded.
        exact, value: of the unquantized model and of the one that is measured.
        alone: they are the same; nothing is compared.
    """
    drawn_L = task.regenerated_L
    same_NL = value.tokens_NL == given.tokens_NL
    kept = float(same_NL[:, ~drawn_L].double().mean())
    fitted = gaussian(value.region_ND)
    to_given = distance(fitted, gaussian(given.region_ND))
    if alone:
        return RegionFigures(to_given, kept)
    pixels = task.pixels(vqvae.config.image_size)
    a, b = (decoded(vqvae, tokens_NL)[..., pixels] for tokens_NL in (exact[1], value[1]))
    error_N = (a - b).square().mean((1, 2)).double()
    equal_NL = exact.tokens_NL == value.tokens_NL
    difference_ND = exact.region_ND.double() - value.region_ND.double()
    return RegionFigures(
        to_given,
        kept,
        frechet_float=distance(gaussian(exact.region_ND), fitted),
        feature_mse=float(difference_ND.square().mean()),
        psnr_db=float((-10 * error_N.log10()).clamp_max(PSNR_CAP_DB).mean()),
        tokens=float(equal_NL[:, drawn_L].double().mean()),
    )
