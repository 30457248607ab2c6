# SPDX-License-Identifier: Apache-2.0
"""The part of a model that a host without PyTorch needs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from lutvar.host.generate import HostModel
from lutvar.quant.methods.recipes.files import fingerprint
from lutvar.quant.models import ModelInfo
from lutvar.quant.var import Var, Vqvae
from lutvar.quant.var.quantizer import Phi


def host_model(var: Var, vqvae: Vqvae, info: ModelInfo | None = None) -> HostModel:
    """Embeddings, codebook and phi convolutions as arrays; `info` has names and settings."""
    quantize = vqvae.quantize
    scales, channels = range(len(quantize.patch_nums)), quantize.z_channels
    phis = {id(quantize.phi(i)): quantize.phi(i) for i in scales}
    numbers = {key: index for index, key in enumerate(phis)}
    convolutions = [phi for phi in phis.values() if isinstance(phi, Phi)]
    kernels = [_array(phi.weight) for phi in convolutions]
    biases = [_array(phi.bias) for phi in convolutions if phi.bias is not None]
    made = HostModel(
        patch_nums=quantize.patch_nums,
        classes=_array(var.class_emb.weight),
        start=_array(var.pos_start)[0],
        positions=_array(var.position_table())[0],
        words=_array(var.word_embed.weight),
        words_bias=_array(var.word_embed.bias),
        codebook=_array(quantize.embedding.weight),
        phi=np.stack(kernels) if kernels else np.zeros((1, channels, channels, 3, 3), np.float32),
        phi_bias=np.stack(biases) if biases else np.zeros((1, channels), np.float32),
        phi_of_scale=tuple(numbers[id(quantize.phi(i))] for i in scales),
        ratio=convolutions[0].ratio if convolutions else 0.0,
        fingerprint=fingerprint(var),
    )
    if info is None:
        return made
    return replace(
        made, names=info.classes, cfg=info.cfg, top_k=info.top_k, top_p=info.top_p
    )  # fmt: skip


def _array(values: Tensor) -> NDArray[np.float32]:
    return np.array(values.detach().cpu().float().numpy())
