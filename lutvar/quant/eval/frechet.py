# SPDX-License-Identifier: Apache-2.0
"""The Fréchet distance between two sets of features, each seen as a Gaussian.

Source: the FID (arXiv:1706.08500), equation 6. On other features than Inception's it is not
comparable with published FID values.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Gaussian:
    """Mean [D] and covariance [D, D] of features, float64, and how many there were."""

    mean_D: Tensor
    cov_DD: Tensor
    count: int


def need_samples(count: int, width: int) -> None:
    """Raise ValueError unless there are more samples than features (singular covariance)."""
    if count <= width:
        raise ValueError(
            f"{count} samples for {width} features: a covariance needs more samples than features, "
            f"{width + 1} or more; thousands for a steady figure"
        )


@torch.no_grad()
def gaussian(features_ND: Tensor) -> Gaussian:
    """Fit to features; `need_samples` says from how many on that is worth something.

    Raises:
        ValueError: fewer than two samples, or values that are not finite.
    """
    count, width = features_ND.shape
    if count < 2:
        raise ValueError(f"{count} samples: a covariance needs two or more")
    x = features_ND.double()
    if not torch.isfinite(x).all():
        raise ValueError("features that are not finite: the model's images are damaged")
    return Gaussian(x.mean(0), torch.cov(x.T).reshape(width, width), count)


@torch.no_grad()
def distance(a: Gaussian, b: Gaussian) -> float:
    """Squared Fréchet distance: |difference of means|^2 + tr(A + B - 2 (AB)^(1/2))."""
    values, vectors = torch.linalg.eigh(a.cov_DD)
    root_a = (vectors * values.clamp_min(0).sqrt()) @ vectors.T
    # (AB)^(1/2) and (A^(1/2) B A^(1/2))^(1/2) have equal eigenvalues; the latter is symmetric.
    cross = torch.linalg.eigvalsh(root_a @ b.cov_DD @ root_a).clamp_min(0).sqrt().sum()
    means = (a.mean_D - b.mean_D).square().sum()
    total = means + a.cov_DD.trace() + b.cov_DD.trace() - 2 * cross
    # Equal sets: rounding can leave a little less than nothing.
    return max(0.0, float(total))


def frechet_distance(a_ND: Tensor, b_MD: Tensor) -> float:
    """The distance between two sets of features."""
    return distance(gaussian(a_ND), gaussian(b_MD))
