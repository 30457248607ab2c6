# SPDX-License-Identifier: Apache-2.0
"""Weights made by a formula from each parameter's name, so that fixtures need no weight files."""

from __future__ import annotations

import zlib

import numpy as np
import torch
from torch import nn

_KEEP = ("lvl_1L", "attn_bias_for_masking", "zero_k_bias", "ema_vocab_hit_SV")


def fill(model: nn.Module) -> None:
    """Overwrite every learned tensor of `model` with values that depend on its name only."""
    for key, value in model.state_dict().items():
        if key.endswith(_KEEP):
            continue
        rng = np.random.default_rng(zlib.crc32(key.encode()))
        noise = torch.from_numpy(rng.standard_normal(tuple(value.shape)).astype(np.float32))
        is_norm = ".norm" in key and key.endswith("weight")
        if is_norm:
            noise = 1 + 0.1 * noise
        elif key.endswith("scale_mul_1H11"):
            # One head is far above the clamp at ln 100.
            noise = 1.4 + 2.5 * noise.abs()
        elif key.endswith(("embedding.weight", "class_emb.weight", "ada_gss")):
            noise = 0.5 * noise
        elif value.dim() >= 2 and key.endswith("weight"):
            noise = noise / value[0].numel() ** 0.5
        else:
            noise = 0.1 * noise
        with torch.no_grad():
            value.copy_(noise)
