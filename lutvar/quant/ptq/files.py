# SPDX-License-Identifier: Apache-2.0
"""Files of quantized models: safetensors with packed codes, everything under one SHA-256.

For each layer `NAME.codes` (uint8 [O, K * bits / 8]; eight codes in as many bytes as a code has
bits, first code in the lowest bits), `NAME.scales` (uint16 [O, G], FP16 patterns) and `NAME.bias`
(float32 [O]). The metadata holds the preset, the layers' arguments, the number formats in full
and the contract version; the hash covers metadata and tensors.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as safetensors_bytes

from lutvar.contract.bits import pack_codes, unpack_codes
from lutvar.contract.formats import CATALOG, NumberFormat, get_format
from lutvar.contract.quant_preset import QuantConfig
from lutvar.contract.register_map import VERSION
from lutvar.files import json_text, write_file
from lutvar.quant.var.sites import LinearSite

from .linear import QuantizationError, QuantizedLinear
from .model import QuantizedModel

_FORMAT = "lutvar-quantized-1"
Tensors = dict[str, NDArray[Any]]


class QuantizedFileError(ValueError):
    """A file of a quantized model that cannot be used; says what was found and what to do."""


def save(model: QuantizedModel, path: str | Path) -> None:
    """Write a quantized model; the file holds either the old or the complete new content."""
    write_layers(path, _FORMAT, model.config, model.layers.values(), {}, {})


def load(path: str | Path, config: QuantConfig | None = None) -> QuantizedModel:
    """Read a quantized model and check all of it.

    Args:
        path: a file that `save` wrote.
        config: the preset that is expected; None takes what the file says.

    Raises:
        QuantizedFileError: missing, truncated, altered or foreign file, another contract version,
            a number format that is defined differently here, or another preset than expected.
    """
    content = read_layers(path, _FORMAT, config)
    return QuantizedModel(content.config, content.layers)


class LayerFile(NamedTuple):
    """Checked content of a file of layers."""

    config: QuantConfig
    layers: dict[LinearSite, QuantizedLinear]
    metadata: dict[str, str]
    tensors: Tensors


def write_layers(
    path: str | Path,
    kind: str,
    config: QuantConfig,
    layers: Iterable[QuantizedLinear],
    metadata: Mapping[str, str],
    tensors: Mapping[str, NDArray[Any]],
) -> None:
    """Write layers and whatever else belongs to them, atomically.

    Args:
        path: file.
        kind: what the file is; `read_layers` wants the same.
        config: preset of the layers.
        layers: the layers.
        metadata, tensors: more content, under names that layers do not use.
    """
    formats: dict[str, NumberFormat] = {}
    arguments = []
    tensors = dict(tensors)
    for layer in layers:
        tensors[f"{layer.name}.codes"] = pack_codes(layer.codes, layer.weight_format.bits)
        tensors[f"{layer.name}.scales"] = layer.scales
        tensors[f"{layer.name}.bias"] = layer.bias
        for fmt in (layer.weight_format, layer.activation_format):
            formats[fmt.name] = fmt
        arguments.append(
            {
                "block": layer.site.block,
                "name": layer.site.name,
                "exponent": layer.exponent,
                "weight": layer.weight_format.name,
                "activation": layer.activation_format.name,
                "rotate": layer.rotate,
                "ties": layer.ties,
                "hadamard_seed": layer.hadamard_seed,
            }
        )
    metadata = dict(metadata) | {
        "format": kind,
        "version": f"{VERSION:#010x}",
        "preset": config.model_dump_json(),
        "layers": json_text(arguments),
        "formats": json_text({n: f.as_dict() for n, f in sorted(formats.items())}),
    }
    metadata["sha256"] = digest(metadata, tensors)
    write_file(path, safetensors_bytes(tensors, metadata))


def read_layers(path: str | Path, kind: str, config: QuantConfig | None = None) -> LayerFile:
    """Read what `write_layers` wrote and check all of it. Raises QuantizedFileError, see `load`."""
    path = Path(path)
    metadata, tensors = read_tensors(path)
    if metadata.get("format") != kind:
        raise QuantizedFileError(
            f"{path}: is {metadata.get('format', 'a safetensors file without a format')!r}, "
            f"expected {kind!r}; write it with `lutvar quantize`"
        )
    stated = metadata.pop("sha256", "")
    found = digest(metadata, tensors)
    if stated != found:
        raise QuantizedFileError(
            f"{path}: content has SHA-256 {found[:16]}..., the file states {stated[:16]}...; "
            "it was altered or damaged, write or copy it again"
        )
    if metadata["version"] != f"{VERSION:#010x}":
        raise QuantizedFileError(
            f"{path}: made for contract version {metadata['version']}, this is {VERSION:#010x}; "
            "quantize the model again"
        )
    for name, definition in json.loads(metadata["formats"]).items():
        if name not in CATALOG or CATALOG[name].as_dict() != definition:
            raise QuantizedFileError(
                f"{path}: number format {name} is defined differently here; quantize again"
            )
    try:
        stored = QuantConfig.model_validate_json(metadata["preset"])
    except ValidationError as error:
        raise QuantizedFileError(f"{path}: its preset is not valid: {error}") from error
    if config is not None and config != stored:
        raise QuantizedFileError(
            f"{path}: made with preset {stored.name!r}, which differs from the expected "
            f"{config.name!r}; quantize with that preset, or load with the file's"
        )
    try:
        layers = [_layer(item, tensors) for item in json.loads(metadata["layers"])]
    except (KeyError, QuantizationError) as error:
        raise QuantizedFileError(f"{path}: layers and tensors do not fit: {error}") from error
    return LayerFile(stored, {layer.site: layer for layer in layers}, metadata, tensors)


def _layer(item: Mapping[str, Any], tensors: Tensors) -> QuantizedLinear:
    site = LinearSite(item["block"], item["name"])
    weight_format = get_format(item["weight"])
    return QuantizedLinear(
        site=site,
        codes=unpack_codes(tensors[f"{site}.codes"], weight_format.bits),
        scales=tensors[f"{site}.scales"],
        exponent=item["exponent"],
        bias=tensors[f"{site}.bias"],
        weight_format=weight_format,
        activation_format=get_format(item["activation"]),
        rotate=item["rotate"],
        ties=item["ties"],
        hadamard_seed=item["hadamard_seed"],
    )


def read_tensors(path: Path) -> tuple[dict[str, str], Tensors]:
    if not path.is_file():
        raise QuantizedFileError(f"{path}: no such file")
    try:
        with safe_open(path, framework="np") as file:
            metadata = dict(file.metadata() or {})
            return metadata, {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise QuantizedFileError(
            f"{path}: not a complete safetensors file ({error}); write or copy it again"
        ) from error


def digest(metadata: Mapping[str, str], tensors: Mapping[str, NDArray[Any]]) -> str:
    """SHA-256 over metadata and tensors, in a fixed order, names and shapes included."""
    state = hashlib.sha256(json_text(metadata, sort_keys=True).encode())
    for name in sorted(tensors):
        value = np.ascontiguousarray(tensors[name])
        state.update(f"{name} {value.dtype.str} {value.shape}".encode())
        state.update(value.data)
    return state.hexdigest()
