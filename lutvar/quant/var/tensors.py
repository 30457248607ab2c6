# SPDX-License-Identifier: Apache-2.0
"""Tensors of torch as the bytes of a safetensors file."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as _save
from torch import Tensor

from lutvar.files import json_text, rendered, write_file


def tensor_bytes(
    state: Mapping[str, Tensor],
    metadata: Mapping[str, str] | None = None,
    dtype: torch.dtype | None = None,
) -> bytes:
    """The content of a safetensors file with these tensors.

    Args:
        state: name -> tensor, on any device and in any layout. Tensors that share memory (tied
            weights, slices) are written one by one, so that each can be read alone.
        metadata: text beside them. safetensors writes several entries in random order; one entry
            gives equal files for equal content.
        dtype: type that floating-point tensors are rounded to; None leaves them. Whole numbers
            and flags always stay what they are.
    """
    plain: dict[str, Tensor] = {}
    storages: set[int] = set()
    for name, value in state.items():
        value = rounded(value.detach(), dtype).cpu().contiguous()
        storage = value.untyped_storage()
        if storage.data_ptr() in storages or storage.nbytes() != value.nbytes:
            value = value.clone()
        storages.add(value.untyped_storage().data_ptr())
        plain[name] = value
    return _save(plain, None if metadata is None else dict(metadata))


def float_pieces(
    shapes: Mapping[str, Sequence[int]],
    value: Callable[[str], Tensor],
    metadata: Mapping[str, str],
) -> Iterator[bytes]:
    """A safetensors file of float32 tensors piece by piece, for models that memory does not hold.

    Args:
        shapes: of each tensor, in the file's order.
        value: makes a tensor; each is asked for once, in that order.
        metadata: text beside them.
    """
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    at = 0
    for name, shape in shapes.items():
        end = at + 4 * math.prod(shape)
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [at, end]}
        at = end
    text = json_text(header).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    for name in shapes:
        yield value(name).detach().cpu().float().contiguous().numpy().tobytes()


def rounded(value: Tensor, dtype: torch.dtype | None) -> Tensor:
    """A floating-point tensor in another floating-point type; any other tensor as it is."""
    return value.to(dtype) if dtype is not None and value.is_floating_point() else value


def write_state(path: str | Path, content: dict[str, Any]) -> None:
    """Write what `torch.load` reads with `weights_only`: tensors, numbers, text in containers."""
    write_file(path, rendered(lambda file: torch.save(content, file)))
