# SPDX-License-Identifier: Apache-2.0
"""Files of quantized models: one safetensors file with the recipe inside, under one SHA-256.

Tensors: for each linear `SITE.integers` and `SITE.scales.*` (or `SITE.weight` where the
weight is no grid), the same under `SITE.second` for weights in two terms, `SITE.bias`, and
what operations and quantizers hold. One metadata entry holds the recipe, the layers, the state of
the attention method, the fingerprint of the model and the hash over all of it.

What an attention method keeps is described at `attention.AttentionMethod`; without it the method
is made again from the recipe alone.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from torch import Tensor

from lutvar.files import json_text, not_a_file, write_file
from lutvar.quant.methods.attention.registry import AttentionMethod, attention_class, make_attention
from lutvar.quant.methods.errors import QuantizedFileError
from lutvar.quant.methods.generator import Model
from lutvar.quant.methods.layers.grid import GridWeight
from lutvar.quant.methods.layers.layer import Layer
from lutvar.quant.methods.layers.state import pack, pack_layer, unpack, unpack_grid, unpack_layer
from lutvar.quant.var.sites import LinearSite

from .recipe import Recipe

FORMAT = "lutvar-recipe-1"  #: in the metadata of these files
#: Values at the start, in the middle and at the end of a tensor that the fingerprint looks at.
_SAMPLED = 1 << 14


class RecipeFile(NamedTuple):
    """Checked content. `layers` are JSON data of `state.pack_layer`."""

    recipe: Recipe
    fingerprint: str
    layers: list[dict[str, Any]]
    attention: Any
    tensors: dict[str, Tensor]
    sha256: str

    def unpacked(self, weights: bool = True) -> dict[LinearSite, Layer]:
        """Site -> layer."""
        layers = [unpack_layer(item, self.tensors, weights) for item in self.layers]
        return {layer.site: layer for layer in layers}

    def grid(self, site: LinearSite, second: bool = False) -> GridWeight | None:
        """Integers and scales of a layer, mapped from the file; None: its weight is no grid.

        With `second` those of the second set; None besides for a weight of one term.
        """
        for item in self.layers:
            if (item["block"], item["name"]) == site and item["grid"] and "parts" not in item:
                return unpack_grid(item, self.tensors, second)
        return None

    def on_grid(self) -> dict[LinearSite, bool]:
        """Site -> whether the weight is kept as integers and scales."""
        return {LinearSite(item["block"], item["name"]): item["grid"] for item in self.layers}


def fingerprint(var: Model) -> str:
    """Names a model: its shape and a sample of each weight.

    Large tensors are not read whole, so that a memory-mapped model stays on disk; two trainings
    never agree on the sample, but a change of one weight can go unseen.
    """
    state = hashlib.sha256(var.config.to_json().encode())
    for name, value in sorted(var.state_dict().items()):
        flat = value.detach().reshape(-1)
        middle = len(flat) // 2
        parts = [flat[:_SAMPLED], flat[middle : middle + _SAMPLED], flat[-_SAMPLED:]]
        state.update(f"{name} {tuple(value.shape)}".encode())
        for part in parts:
            state.update(part.cpu().contiguous().numpy().tobytes())
    return state.hexdigest()


def attention_state(method: AttentionMethod | None, tensors: dict[str, Tensor]) -> Any:
    """JSON data of what an attention method keeps, or None."""
    state = getattr(method, "state", None)
    return None if state is None else pack(state(), "attention", tensors)


def restored_attention(content: RecipeFile, var: Model) -> AttentionMethod | None:
    """The attention method of a file."""
    if content.recipe.attention is None:
        return None
    restored = getattr(attention_class(content.recipe.attention), "restored", None)
    if restored is not None and content.attention is not None:
        state = unpack(content.attention, content.tensors)
        return cast(AttentionMethod, restored(content.recipe.attention, var, state))
    method = make_attention(content.recipe.attention, var, None)
    if content.attention is not None:
        method.load_state(unpack(content.attention, content.tensors))  # type: ignore[attr-defined]
    return method


def write(
    path: Path,
    recipe: Recipe,
    model: str,
    layers: Iterable[Mapping[str, Any]],
    attention: Any,
    tensors: Mapping[str, Tensor],
) -> None:
    """Write a file, atomically. `layers` and `attention` are packed, `model` is a fingerprint.

    Each tensor is fetched from `tensors` when it is needed, see `PartTensors`.
    """
    arrays = _Arrays(tensors)
    metadata = {
        "format": FORMAT,
        "recipe": recipe.model_dump_json(),
        "model": model,
        "layers": json_text(list(layers)),
        "attention": json_text(attention),
    }
    metadata["sha256"] = _digest(metadata, arrays)
    # One entry: safetensors writes several in random order, and equal results should be equal.
    write_file(path, _pieces({"lutvar": json_text(metadata, sort_keys=True)}, arrays))


class _Arrays(Mapping[str, NDArray[Any]]):
    """Tensors as arrays, each fetched when it is needed and not kept."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._tensors = tensors

    def __getitem__(self, name: str) -> NDArray[Any]:
        return np.ascontiguousarray(self._tensors[name].numpy())

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


class PartTensors(Mapping[str, Tensor]):
    """Tensors of several files, read one at a time: what joins them needs memory for one.

    Args:
        paths: name -> file that holds it.
    """

    def __init__(self, paths: Mapping[str, Path]) -> None:
        self._paths = paths

    def __getitem__(self, name: str) -> Tensor:
        with safe_open(self._paths[name], framework="np") as file:  # "np" copies, "pt" maps
            return torch.from_numpy(file.get_tensor(name))

    def __iter__(self) -> Iterator[str]:
        return iter(self._paths)

    def __len__(self) -> int:
        return len(self._paths)


#: Names of the types in safetensors headers.
_TYPES = {"float32": "F32", "float16": "F16", "float64": "F64", "int8": "I8", "uint8": "U8",
          "int16": "I16", "int32": "I32", "int64": "I64", "bool": "BOOL"}  # fmt: skip


def _pieces(metadata: Mapping[str, str], arrays: Mapping[str, NDArray[Any]]) -> Iterator[bytes]:
    """A safetensors file piece by piece: length and JSON header, then one tensor after the other.

    The library's own writer needs all of them in memory, twice.
    """
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    sizes = {name: arrays[name].dtype.itemsize for name in arrays}
    order, at = sorted(arrays, key=lambda name: (-sizes[name], name)), 0
    for name in order:  # wide types first: every tensor is aligned
        array = arrays[name]
        header[name] = {
            "dtype": _TYPES[array.dtype.name],
            "shape": list(array.shape),
            "data_offsets": [at, at + array.nbytes],
        }
        at += array.nbytes
    text = json_text(header).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    for name in order:
        yield arrays[name].tobytes()


def pack_layers(layers: Iterable[Layer]) -> tuple[list[dict[str, Any]], dict[str, Tensor]]:
    """JSON data and tensors of finished layers."""
    tensors: dict[str, Tensor] = {}
    return [pack_layer(layer, tensors) for layer in layers], tensors


def read(path: str | Path, model: str | None = None) -> RecipeFile:
    """Read a file and check all of it.

    Args:
        path: a file that `write` made.
        model: fingerprint of the model that it must belong to.

    Raises:
        QuantizedFileError: missing, truncated, altered or foreign file, or another model's.
    """
    path = Path(path)
    outer, arrays = _read_tensors(path)
    try:
        metadata = dict(json.loads(outer.get("lutvar", "{}")))
    except (json.JSONDecodeError, TypeError, ValueError):
        metadata = {}
    if metadata.get("format") != FORMAT:
        kind = metadata.get("format", outer.get("format", "another safetensors file"))
        raise QuantizedFileError(
            f"{path}: is {kind!r}, expected {FORMAT!r}; write it with `lutvar quantize`"
        )
    stated = metadata.pop("sha256", "")
    digest = _digest(metadata, arrays)
    if stated != digest:
        raise QuantizedFileError(
            f"{path}: content has SHA-256 {digest[:16]}..., the file states {stated[:16]}...; "
            "it was altered or damaged, write or copy it again"
        )
    if model is not None and metadata["model"] != model:
        raise QuantizedFileError(
            f"{path}: made of a model with fingerprint {metadata['model'][:16]}..., this one has "
            f"{model[:16]}...; load the model that was quantized"
        )
    try:
        recipe = Recipe.model_validate_json(metadata["recipe"])
    except ValidationError as error:
        raise QuantizedFileError(f"{path}: its recipe is not valid here: {error}") from error
    tensors = {name: torch.from_numpy(value) for name, value in arrays.items()}
    return RecipeFile(
        recipe, metadata["model"], json.loads(metadata["layers"]),
        json.loads(metadata["attention"]), tensors, stated,
    )  # fmt: skip


def _read_tensors(path: Path) -> tuple[dict[str, str], dict[str, NDArray[Any]]]:
    if problem := not_a_file(path):
        raise QuantizedFileError(f"{path}: {problem}")
    try:
        with safe_open(path, framework="pt") as file:  # maps, where "np" copies gigabytes
            metadata = dict(file.metadata() or {})
            return metadata, {key: file.get_tensor(key).numpy() for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise QuantizedFileError(
            f"{path}: not a complete safetensors file ({error}); write or copy it again"
        ) from error


def _digest(metadata: Mapping[str, str], tensors: Mapping[str, NDArray[Any]]) -> str:
    """SHA-256 over metadata and tensors, in a fixed order, names and shapes included."""
    state = hashlib.sha256(json_text(metadata, sort_keys=True).encode())
    for name in sorted(tensors):
        value = np.ascontiguousarray(tensors[name])
        state.update(f"{name} {value.dtype.str} {value.shape}".encode())
        state.update(value.data)
    return state.hexdigest()
