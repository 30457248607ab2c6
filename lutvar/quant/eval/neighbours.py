# SPDX-License-Identifier: Apache-2.0
"""Precision and recall of samples: how many lie where real images are, and the reverse.

Source: T. Kynkäänniemi et al., "Improved Precision and Recall Metric for Assessing Generative
Models" (arXiv:1904.06991), section 2: a set covers what is no farther from one of its points than
that point's k-th nearest neighbour in the set.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

#: Neighbour that sets the radius, as in the paper.
NEIGHBOUR = 3
_ROWS = 1024


class PrecisionRecall(NamedTuple):
    """Shares from 0 to 1, and how many points of each set were used."""

    precision: float
    recall: float
    points: int


@torch.no_grad()
def precision_recall(
    sampled_ND: Tensor, real_MD: Tensor, neighbour: int = NEIGHBOUR
) -> PrecisionRecall:
    """Compare as many samples as there are real images, or the first real ones when fewer.

    Both shares depend on the number of points, so the sets get equal sizes: the first ones.

    Raises:
        ValueError: not more points than `neighbour`.
    """
    points = min(len(sampled_ND), len(real_MD))
    if points <= neighbour:
        raise ValueError(f"{points} points: the {neighbour}. neighbour needs at least one more")
    sampled, real = sampled_ND[:points].double(), real_MD[:points].double()
    return PrecisionRecall(
        covered(sampled, real, neighbour), covered(real, sampled, neighbour), points
    )


def covered(points_ND: Tensor, set_MD: Tensor, neighbour: int) -> float:
    """Share of the points inside a ball around a point of the set."""
    # The nearest of a point in its own set is itself.
    radius_M = torch.cat(
        [_distances(rows, set_MD).kthvalue(neighbour + 1, 1).values for rows in set_MD.split(_ROWS)]
    )
    inside = [(_distances(rows, set_MD) <= radius_M).any(1) for rows in points_ND.split(_ROWS)]
    return float(torch.cat(inside).double().mean())


def _distances(a_ND: Tensor, b_MD: Tensor) -> Tensor:
    """[N, M]. The exact form: products would leave a distance from a point to itself."""
    return torch.cdist(a_ND, b_MD, compute_mode="donot_use_mm_for_euclid_dist")
