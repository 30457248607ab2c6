# SPDX-License-Identifier: Apache-2.0
"""Learned rounding: each weight is free between the grid points below and above it.

Source: AdaRound (arXiv:2004.10568), equations 22 to 24: a rectified sigmoid, and a regulariser that
pushes it to 0 or 1. On grids with unequal steps the two neighbours take the place of floor and
floor + 1 (arXiv:2408.06995; FP4DiT, arXiv:2503.15465).
"""

from __future__ import annotations

import torch
from torch import Tensor

from .layer import Layer

#: Stretch of the sigmoid, AdaRound equation 23.
ZETA, GAMMA = 1.1, -0.1


class SoftRounding:
    """A weight between its neighbours on the grid: `down + (up - down) h(v)`.

    Attributes:
        v_OI: the learned variable; h starts at the weight's own place between the neighbours.
        down_OI, gap_OI: lower neighbour, distance to the upper one (0 at the end of the grid).
    """

    def __init__(self, layer: Layer) -> None:
        quantizer, scales = layer.grid()
        self.down_OI, up_OI = quantizer.neighbours(layer.weight_OI, scales)
        self.gap_OI = up_OI - self.down_OI
        place = (layer.weight_OI - self.down_OI) / torch.where(self.gap_OI > 0, self.gap_OI, 1.0)
        stretched = (place.clamp(0, 1) - GAMMA) / (ZETA - GAMMA)
        self.v_OI = torch.logit(stretched)

    def h(self) -> Tensor:
        """Place between the neighbours, 0 to 1, [O, I]."""
        return (torch.sigmoid(self.v_OI) * (ZETA - GAMMA) + GAMMA).clamp(0, 1)

    def soft(self) -> Tensor:
        """The weight while it is learned, [O, I]."""
        return self.down_OI + self.gap_OI * self.h()

    def hard(self) -> Tensor:
        """The weight on the grid, [O, I]."""
        with torch.no_grad():
            return self.down_OI + self.gap_OI * (self.h() >= 0.5)

    def penalty(self, power: float) -> Tensor:
        """Mean of `1 - |2 h - 1|**power`: 0 when every weight is on the grid."""
        return (1 - (2 * self.h() - 1).abs() ** power).mean()

    def slope(self, power: float) -> tuple[Tensor, Tensor]:
        """Derivatives for v of h and of the penalty, [O, I] each."""
        sigmoid = torch.sigmoid(self.v_OI)
        raw = sigmoid * (ZETA - GAMMA) + GAMMA
        inner = sigmoid * (1 - sigmoid) * (ZETA - GAMMA) * ((raw > 0) & (raw < 1))
        place = 2 * raw.clamp(0, 1) - 1
        outer = -2 * power * place.abs() ** (power - 1) * place.sign() / place.numel()
        return inner, outer * inner


def power_at(progress: float) -> float:
    """Power of the penalty when `progress` (0 to 1) of the steps is done, 20 to 2, linear."""
    return 20.0 + (2.0 - 20.0) * progress
