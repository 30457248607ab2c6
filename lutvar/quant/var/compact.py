# SPDX-License-Identifier: Apache-2.0
"""Weights in about six bits each: safetensors of int8 rows, inside xz.

Every large matrix or convolution is stored as int8 with one float16 step for each output row, and
xz takes out the redundancy of the int8 values. The rounded weights are the model, as they are with
float16 files. AdaLN projections see nothing but the
embeddings of the classes, so what they give for those is stored in place of their matrices.
"""

from __future__ import annotations

import json
import lzma
from collections.abc import Mapping
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as safetensors_load
from torch import Tensor
from torch.nn import functional as F

from .tensors import rounded, tensor_bytes

#: Smaller tensors stay float16.
_LARGE = 4096
#: Steps in a standard deviation of a row: 16 leave a rounding error 35 dB below the weights, 32
#: leave 41 dB.
STEPS = 16.0
_SCALE, _OUTPUTS = ".step", ".class_outputs"
_EMBEDDING = "class_emb.weight"


def pack(state: Mapping[str, Tensor], metadata: Mapping[str, str], steps: float = STEPS) -> bytes:
    """The content of a compact file.

    Args:
        state: name -> tensor.
        metadata: stored as it is.
        steps: steps in a standard deviation of a row.

    Raises:
        ValueError: a tensor that is not finite.
    """
    stored: dict[str, Tensor] = {}
    for key, value in state.items():
        if not value.is_floating_point():
            stored[key] = value.detach().cpu()
            continue
        value = value.detach().cpu().float()
        if not bool(torch.isfinite(value).all()):
            raise ValueError(f"{key}: has values that are not finite; the training diverged")
        if key.endswith("ada_lin.1.weight") and _EMBEDDING in state:
            inputs_EC = _conditions(state[_EMBEDDING].detach().half())
            stored[key + _OUTPUTS] = (value.double() @ inputs_EC.mT).half()
        elif value.numel() > _LARGE and value.dim() > 1 and "embed" not in key:
            rows = value.flatten(1).double()
            step = torch.maximum(rows.square().mean(1).sqrt() / steps, rows.abs().amax(1) / 127)
            step = step.clamp_min(2.0**-24).half()
            codes = torch.round(rows / step.double().unsqueeze(1)).clamp(-127, 127)
            stored[key] = codes.to(torch.int8).reshape(value.shape)
            stored[key + _SCALE] = step
        else:
            stored[key] = value.half()
    content = tensor_bytes(stored, metadata)
    return lzma.compress(content, preset=9 | lzma.PRESET_EXTREME)


def unpack(data: bytes) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors (floating-point ones as float32) and metadata of a compact file.

    Raises:
        ValueError: not a compact file, or a damaged one.
    """
    try:
        content = lzma.decompress(data)
        stored = safetensors_load(content)
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    except (lzma.LZMAError, EOFError, SafetensorError, json.JSONDecodeError) as error:
        raise ValueError(f"not a complete compact file ({error})") from error
    state: dict[str, Tensor] = {}
    for key, value in stored.items():
        if key.endswith(_SCALE):
            continue
        if key.endswith(_OUTPUTS):
            state[key.removesuffix(_OUTPUTS)] = _projection(value, stored[_EMBEDDING])
        elif key + _SCALE in stored:
            step = stored[key + _SCALE].float()
            state[key] = value.float() * step.view(-1, *[1] * (value.dim() - 1))
        else:
            state[key] = rounded(value, torch.float32)
    return state, header.get("__metadata__", {})


def _conditions(embedding_EC: Tensor) -> Tensor:
    """What the AdaLN projections see: SiLU of the class embeddings, float64."""
    return F.silu(embedding_EC.double())


def _projection(outputs_OE: Tensor, embedding_EC: Tensor) -> Tensor:
    """The smallest matrix [O, C] that gives these outputs for all classes."""
    inputs_EC = _conditions(embedding_EC)
    gram_EE = inputs_EC @ inputs_EC.mT
    return (torch.linalg.solve(gram_EE, outputs_OE.double().mT).mT @ inputs_EC).float()
