# SPDX-License-Identifier: Apache-2.0
"""The small models on which this project and the released code are compared."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from lutvar.contract.shape import OFFICIAL_SIZES as OFFICIAL
from lutvar.quant.var.config import VarConfig, VqvaeConfig

__all__ = ["CASES", "OFFICIAL", "Case", "Sampling", "image_batch"]


class Sampling(NamedTuple):
    """Arguments of one generation."""

    seed: int
    cfg: float
    top_k: int
    top_p: float


class Case(NamedTuple):
    """One comparison: configurations, labels and sampling settings."""

    name: str
    var: VarConfig
    vqvae: VqvaeConfig
    labels: tuple[int, ...]
    sampling: Sampling

    @property
    def stride(self) -> int:
        """Every how many tokens the fixtures keep float values."""
        return 3 if self.var.tokens < 60 else 29


def _case(
    name: str,
    patch_nums: tuple[int, ...],
    sampling: Sampling,
    share_quant_resi: int = 4,
    **changes: bool,
) -> Case:
    vocab, z_channels = 96, 8
    var = VarConfig(
        depth=2,
        width=128,
        heads=2,
        patch_nums=patch_nums,
        num_classes=5,
        vocab=vocab,
        z_channels=z_channels,
        cond_drop_rate=0.0,
        **changes,
    )
    vqvae = VqvaeConfig(
        vocab=vocab,
        z_channels=z_channels,
        ch=32,
        patch_nums=patch_nums,
        share_quant_resi=share_quant_resi,
    )
    return Case(name, var, vqvae, (3, 0), sampling)


CASES = (
    _case("topk_topp", (1, 2, 3, 4), Sampling(7, 1.5, 20, 0.9)),
    _case("plain", (1, 2, 3, 4), Sampling(8, 4.0, 0, 0.0), 1, attn_l2_norm=False),
    _case("shared", (1, 2, 4), Sampling(9, 0.0, 30, 0.0), 0, shared_adaln=True),
    _case("ten_scales", (1, 2, 3, 4, 5, 6, 7, 8, 9, 10), Sampling(10, 1.5, 0, 0.8)),
)


def image_batch(case: Case) -> torch.Tensor:
    """Two images of smooth waves in [-1, 1], [2, 3, size, size]."""
    size = case.vqvae.image_size
    row, column = np.mgrid[0:size, 0:size] / size
    waves = [
        [np.sin(6.3 * ((1 + i) * row + (1 + c) * column) + i * c) for c in range(3)]
        for i in range(2)
    ]
    return torch.tensor(np.array(waves), dtype=torch.float32)
