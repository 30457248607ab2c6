# SPDX-License-Identifier: Apache-2.0
"""Muon: momentum whose matrix is made orthogonal before it is applied.

Sources: K. Jordan, "Muon" (2024), with its quintic Newton-Schulz iteration; the size of the update
after J. Liu et al. (arXiv:2502.16982), equation 4. torch's own Muon iterates in bfloat16, which
processors without instructions for it compute many times slower than float32.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

_COEFFICIENTS = (3.4445, -4.775, 2.0315)


def orthogonal(matrix_OI: Tensor, iterations: int = 5) -> Tensor:
    """A matrix with the singular vectors of the given one and singular values near 1 (0.7 to 1.2).

    Args:
        matrix_OI: [O, I], any shape.
        iterations: of the Newton-Schulz polynomial.
    """
    a, b, c = _COEFFICIENTS
    wide = matrix_OI.shape[0] <= matrix_OI.shape[1]
    x = matrix_OI if wide else matrix_OI.mT
    x = x / (x.norm() + 1e-7)
    for _ in range(iterations):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    return x if wide else x.mT


class Muon(torch.optim.Optimizer):
    """For matrices. Updates are as large as AdamW's, so that both can share one learning rate."""

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float,
        weight_decay: float,
        momentum: float = 0.95,
        iterations: int = 5,
    ) -> None:
        defaults = {
            "lr": lr, "weight_decay": weight_decay, "momentum": momentum, "iterations": iterations,
        }  # fmt: skip
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One update from the gradients, with Nesterov momentum."""
        for group in self.param_groups:
            lr, momentum = group["lr"], group["momentum"]
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                if not state:
                    state["momentum"] = torch.zeros_like(weight)
                mean = state["momentum"].lerp_(weight.grad, 1 - momentum)
                update = orthogonal(weight.grad.lerp(mean, momentum), group["iterations"])
                weight.mul_(1 - lr * group["weight_decay"])
                # Root mean square of the update: 0.2, about that of AdamW.
                weight.add_(update, alpha=-lr * 0.2 * math.sqrt(max(weight.shape)))
