# SPDX-License-Identifier: Apache-2.0
"""Coarse-to-fine search for two numbers at once, for many channels side by side.

Source: the fast progressive combining search (FPCS) of AdaLog (arXiv:2407.12951), section 3.3: a
coarse grid over both numbers, then the best points of each channel are surrounded by finer ones.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def progressive(
    error: Callable[[Tensor, Tensor], Tensor],
    channels: int,
    candidates: int = 32,
    steps: int = 3,
    start: tuple[float, float] = (1.0, 1.0),
) -> tuple[Tensor, Tensor]:
    """Two numbers in [0, 1] for each channel that make `error` small.

    Args:
        error: of (a [K, O], b [K, O]), the error of each candidate, [K, O].
        channels: O.
        candidates: K of each round, at least 8; the paper has 128.
        steps: rounds after the first; the paper has 6.
        start: a point that is among the candidates, so that the result is never worse than it.

    Returns:
        (a [O], b [O]).
    """
    rows = max(2, int(candidates**0.5))
    columns = max(2, candidates // rows)
    a = torch.linspace(0, 1, rows, dtype=torch.float32).repeat_interleave(columns)
    b = torch.linspace(0, 1, columns, dtype=torch.float32).repeat(rows)
    points = torch.stack((a, b), 1)
    points = torch.cat((points, torch.tensor([start], dtype=torch.float32)))
    points_KO2 = points.unsqueeze(1).expand(-1, channels, -1).contiguous()
    errors_KO = error(points_KO2[..., 0], points_KO2[..., 1])
    spacing = torch.tensor([1 / (rows - 1), 1 / (columns - 1)], dtype=torch.float32)
    around = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]], dtype=torch.float32)
    keep = max(1, candidates // len(around))
    for _ in range(steps):
        spacing = spacing / 2
        best = torch.topk(errors_KO, min(keep, len(errors_KO)), dim=0, largest=False)
        top_KO2 = torch.gather(points_KO2, 0, best.indices.unsqueeze(-1).expand(-1, -1, 2))
        moved = top_KO2.unsqueeze(0) + (around * spacing)[:, None, None]
        fresh_KO2 = moved.flatten(0, 1).clamp_(0, 1)
        fresh_KO = error(fresh_KO2[..., 0], fresh_KO2[..., 1])
        points_KO2 = torch.cat((top_KO2, fresh_KO2))
        errors_KO = torch.cat((best.values, fresh_KO))
    index = errors_KO.argmin(0)[None, :, None].expand(-1, -1, 2)
    best_O2 = torch.gather(points_KO2, 0, index)[0]
    return best_O2[:, 0], best_O2[:, 1]
