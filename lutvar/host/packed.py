# SPDX-License-Identifier: Apache-2.0
"""Packed layers and the file that holds a packed model.

A file is safetensors: one uint8 tensor for each layer, the very bytes that go down ``s_axis_wgt``,
and metadata with the arguments of each layer, the configuration hash that they were packed for, and
a SHA-256 over all of it. Loading checks everything once, then hands out views of the mapped file.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as safetensors_bytes

from lutvar.contract.config import GROUP, HardwareConfig, QuantConfig
from lutvar.contract.identity import config_hash
from lutvar.contract.layout import StreamLayout
from lutvar.contract.registers import VERSION

from .errors import PackedFileError
from .packing import pack_weights, unpack_weights
from .transport import Bytes

_FORMAT = "lutvar-packed-1"


class QuantizedLayer(Protocol):
    """What packing needs of a quantized linear layer (see `lutvar.quant.ptq`)."""

    @property
    def codes(self) -> ArrayLike: ...  # uint8 [O, K]
    @property
    def scales(self) -> ArrayLike: ...  # FP16 patterns [O, G]
    @property
    def bias(self) -> ArrayLike: ...  # float32 [O]
    @property
    def exponent(self) -> int: ...
    @property
    def rotate(self) -> bool: ...
    @property
    def dual(self) -> bool: ...


@dataclass(frozen=True)
class LayerArgs:
    """The arguments of a layer's jobs.

    Attributes:
        in_features, out_features: K (a multiple of 128) and O, without padding.
        scale_exp: exponent e of the weight scales.
        rotate: Hadamard transform before quantizing.
        dual: dual-format activations.
    """

    in_features: int
    out_features: int
    scale_exp: int
    rotate: bool
    dual: bool

    @property
    def groups(self) -> int:
        return self.in_features // GROUP


@dataclass(frozen=True)
class PackedLinear:
    """One linear layer, ready to stream.

    Attributes:
        name: for messages and files, ``block3.fc1``.
        args: job arguments.
        stream: the ``s_axis_wgt`` packet, uint8.
    """

    name: str
    args: LayerArgs
    stream: Bytes

    def tiles(self, layout: StreamLayout) -> int:
        """Tiles of N outputs."""
        return -(-self.args.out_features // layout.outputs)

    def unpack(
        self, layout: StreamLayout
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint16], NDArray[np.float32]]:
        """Weight codes [O, K], scale patterns [O, G] and bias [O]."""
        return unpack_weights(self.stream, layout, self.args.out_features, self.args.groups)


def pack_linear(name: str, layer: QuantizedLayer, layout: StreamLayout) -> PackedLinear:
    """Pack one quantized layer for a stream geometry."""
    codes = np.asarray(layer.codes, dtype=np.uint8)
    args = LayerArgs(
        codes.shape[1], codes.shape[0], int(layer.exponent), bool(layer.rotate), bool(layer.dual)
    )
    scales, bias = np.asarray(layer.scales, np.uint16), np.asarray(layer.bias, np.float32)
    return PackedLinear(name, args, pack_weights(codes, scales, bias, layout))


class PackedModel(Mapping[str, PackedLinear]):
    """All block linears of a model, packed for one accelerator; maps layer names to layers.

    Attributes:
        config_hash: hash of the accelerator configuration that the streams are for.
        model: free description of the model (name, source, digest), kept in the file.
    """

    def __init__(
        self, layers: Mapping[str, PackedLinear], hash_: int, model: Mapping[str, str]
    ) -> None:
        self._layers, self.config_hash, self.model = dict(layers), hash_, dict(model)

    @classmethod
    def pack(
        cls,
        layers: Mapping[str, QuantizedLayer],
        hardware: HardwareConfig,
        quant: QuantConfig,
        model: Mapping[str, str] | None = None,
    ) -> PackedModel:
        """Pack quantized layers (by name) for a hardware configuration."""
        layout = StreamLayout.of(hardware, quant)
        packed = {name: pack_linear(name, layer, layout) for name, layer in layers.items()}
        return cls(packed, config_hash(hardware, quant), model or {})

    def __getitem__(self, name: str) -> PackedLinear:
        try:
            return self._layers[name]
        except KeyError:
            known = list(self._layers)
            shown = ", ".join(known[:8]) + (", ..." if len(known) > 8 else "")
            raise KeyError(f"no packed layer {name!r}; layers: {shown}") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._layers)

    def __len__(self) -> int:
        return len(self._layers)

    @property
    def nbytes(self) -> int:
        """Stream bytes of all layers."""
        return sum(layer.stream.nbytes for layer in self._layers.values())

    def save(self, path: str | Path) -> str:
        """Write the file atomically (beside the target, then renamed). Returns its SHA-256."""
        path = Path(path)
        meta: dict[str, Any] = {
            "version": f"{VERSION:#x}",
            "config_hash": f"{self.config_hash:016x}",
            "model": self.model,
            "layers": {name: asdict(layer.args) for name, layer in self.items()},
        }
        tensors = {name: layer.stream for name, layer in self._layers.items()}
        meta["sha256"] = _digest(meta, tensors)
        beside = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            # One metadata key only: the library writes several in random order.
            beside.write_bytes(safetensors_bytes(tensors, {_FORMAT: json.dumps(meta)}))
            os.replace(beside, path)
        finally:
            beside.unlink(missing_ok=True)
        return str(meta["sha256"])

    @classmethod
    def load(cls, path: str | Path, hardware: HardwareConfig, quant: QuantConfig) -> PackedModel:
        """Map a file and check it whole: structure, configuration, digest, stream lengths.

        The streams are read-only views of the mapped file, so memory holds only what is used.

        Raises:
            PackedFileError: missing, truncated, altered, or packed for another configuration.
        """
        path = Path(path)
        meta, tensors = _map_file(path)
        expected, layout = config_hash(hardware, quant), StreamLayout.of(hardware, quant)
        if meta["version"] != f"{VERSION:#x}":
            raise PackedFileError(
                f"{path}: packed for contract version {meta['version']}, this is {VERSION:#x}; "
                "pack again"
            )
        if meta["config_hash"] != f"{expected:016x}":
            raise PackedFileError(
                f"{path}: packed for configuration {meta['config_hash']}, but {hardware.name} with "
                f"{quant.name} is {expected:016x}; pack the model for this configuration"
            )
        if meta["sha256"] != _digest(meta, tensors):
            raise PackedFileError(
                f"{path}: content does not match its SHA-256; the file was altered, pack again"
            )
        layers = {}
        for name, fields in meta["layers"].items():
            layer = PackedLinear(name, LayerArgs(**fields), tensors[name])
            wanted = layout.wgt_beats(layer.args.groups, layer.tiles(layout)) * layout.stream_bytes
            if wanted != layer.stream.nbytes:
                raise PackedFileError(
                    f"{path}: {name} holds {layer.stream.nbytes} bytes, its arguments need {wanted}"
                )
            layers[name] = layer
        return cls(layers, expected, meta["model"])


def _digest(meta: Mapping[str, Any], tensors: Mapping[str, Bytes]) -> str:
    """SHA-256 over the metadata (but the digest itself) and every tensor, by name."""
    described = {key: value for key, value in meta.items() if key != "sha256"}
    digest = hashlib.sha256(json.dumps(described, sort_keys=True).encode())
    for name in sorted(tensors):
        digest.update(f"\0{name}\0{tensors[name].nbytes}\0".encode())
        digest.update(tensors[name].data)
    return digest.hexdigest()


def _map_file(path: Path) -> tuple[dict[str, Any], dict[str, Bytes]]:
    """Metadata and tensors, as views of the mapped file. The library checks the structure first."""
    try:
        with safe_open(path, framework="numpy") as handle:
            text = (handle.metadata() or {}).get(_FORMAT)
    except OSError as error:
        raise PackedFileError(f"cannot read {path}: {error.strerror or error}") from error
    except SafetensorError as error:
        raise PackedFileError(
            f"{path} is not a whole safetensors file ({error}); it was cut or altered, pack again"
        ) from error
    if text is None:
        raise PackedFileError(
            f"{path} has no metadata {_FORMAT!r}; it is not a packed model of this version"
        )
    try:
        meta = json.loads(text)
        meta = {key: meta[key] for key in ("version", "config_hash", "model", "layers", "sha256")}
    except (ValueError, TypeError, KeyError) as error:
        raise PackedFileError(f"{path}: its metadata was altered ({error}); pack again") from error
    raw = np.memmap(path, dtype=np.uint8, mode="r")
    length = int.from_bytes(raw[:8].tobytes(), "little")
    header: dict[str, Any] = json.loads(raw[8 : 8 + length].tobytes())
    header.pop("__metadata__")
    body = raw[8 + length :]
    tensors = {name: body[slice(*item["data_offsets"])] for name, item in header.items()}
    return meta, tensors
