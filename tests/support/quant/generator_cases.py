# SPDX-License-Identifier: Apache-2.0
"""The small RAR and PAR models on which this project and the released code are compared."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from lutvar.quant.generators import Par, ParConfig, Rar, RarConfig, Sampling, TokenizerConfig
from lutvar.quant.generators.model import TokenModel
from lutvar.quant.generators.names import (
    MASKGIT,
    PAR,
    RAR,
    Renames,
    from_released,
    released_shapes,
    vq16,
)
from lutvar.quant.generators.tokenizers import Tokenizer


class GeneratorCase(NamedTuple):
    """One comparison: shape, labels and sampling settings."""

    name: str
    config: RarConfig | ParConfig
    labels: tuple[int, ...]
    seed: int
    sampling: Sampling


CASES = (
    GeneratorCase(
        "rar",
        RarConfig(width=128, depth=2, heads=8, hidden=256, vocab=32, num_classes=5, tokens=16),
        (3, 0),
        7,
        Sampling(cfg=4.0, power=1.5, temperature=1.02),
    ),
    GeneratorCase(
        "par4",
        ParConfig(128, 2, 4, 512, vocab=64, num_classes=5, tokens=16, group=4),
        (3, 0),
        8,
        Sampling(cfg=1.5),
    ),
    GeneratorCase(
        "par16",
        ParConfig(128, 2, 4, 512, vocab=64, num_classes=5, tokens=64, group=16),
        (1, 4),
        9,
        Sampling(cfg=2.0, temperature=0.9, top_k=20, top_p=0.9),
    ),
)
TOKENIZERS = {
    "maskgit": TokenizerConfig(
        "maskgit", side=4, vocab=32, z_channels=32, code_channels=32, ch=32, ch_mult=(1, 2)
    ),
    "vq16": TokenizerConfig(
        "vq16", side=4, vocab=32, z_channels=32, code_channels=8, ch=32, ch_mult=(1, 2)
    ),
}


def formula(name: str, shape: list[int]) -> Tensor:
    """Values that depend on a released name only, so that fixtures need no weight files."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    noise = torch.from_numpy(rng.standard_normal(tuple(shape)).astype(np.float32))
    if "norm" in name and name.endswith("weight") and len(shape) == 1:
        return 1 + 0.1 * noise
    if "embed" in name and name.endswith("weight"):
        return 0.5 * noise
    if len(shape) >= 2 and name.endswith("weight"):
        return noise / noise[0].numel() ** 0.5
    return 0.1 * noise


def released_state(shapes: Mapping[str, list[int]]) -> dict[str, Tensor]:
    """Tensors by the formula, under released names."""
    return {name: formula(name, shape) for name, shape in shapes.items()}


def _filled(module: nn.Module, renames: Renames) -> None:
    state = module.state_dict()
    released = released_state(released_shapes(state, renames))
    module.load_state_dict(from_released(list(state), released, renames))
    module.eval().requires_grad_(False)


def model_of(case: GeneratorCase) -> TokenModel:
    """The model of a case with weights by the formula."""
    if isinstance(case.config, ParConfig):
        model: TokenModel = Par(case.config)
        _filled(model, PAR)
    else:
        model = Rar(case.config)
        _filled(model, RAR)
    return model


def tokenizer_of(kind: str) -> Tokenizer:
    """A small tokenizer with weights by the formula."""
    config = TOKENIZERS[kind]
    tokenizer = Tokenizer(config)
    _filled(tokenizer, MASKGIT if kind == "maskgit" else vq16(len(config.ch_mult)))
    return tokenizer


def waves(side: int) -> Tensor:
    """Two colour images of smooth waves in [0, 1], [2, 3, side, side]."""
    row, column = np.mgrid[0:side, 0:side] / side
    maps = [
        [np.sin(6.3 * ((1 + i) * row + (1 + c) * column) + i * c) for c in range(3)]
        for i in range(2)
    ]
    return torch.tensor((np.array(maps) + 1) / 2, dtype=torch.float32)
