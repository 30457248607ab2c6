# SPDX-License-Identifier: Apache-2.0
"""A quantized transformer as the bytes of region MODEL, and the file that holds it.

A file is safetensors: one uint8 tensor, the image, and JSON metadata: sizes, labels, scale
exponents, the hash of the accelerator, and a SHA-256 over everything. Loading checks all of it
once, then hands out a view of the mapped file.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as safetensors_bytes

from lutvar.contract.accelerator import HEAD_DIM, AcceleratorConfig
from lutvar.contract.config import GROUP
from lutvar.contract.memory import pack_panel, qkv_order
from lutvar.quant.ptq.linear import QuantizedLinear
from lutvar.quant.ptq.transformer import QuantizedTransformer
from lutvar.quant.shape import TransformerShape

from .compiler import Compiler
from .errors import CompileError, ImageError
from .model_layout import HEAD, LayerPlan, ModelLayout
from .program import accelerator_hash

_FORMAT = "lutvar-image-1"
_KEYS = ("shape", "accelerator", "labels", "exponents", "epsilon", "null_label", "model", "sha256")
Bytes = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class PackedTransformer:
    """A transformer packed for one accelerator.

    Attributes:
        layout: where everything lies.
        image: contents of region MODEL, uint8 [layout.size].
        exponents: scale exponent of each layer, in the order of ``layout.layers``.
        epsilon: of the norms, a float32 value.
        null_label: class of the unconditional halves.
        model: free description (name, source, digest), kept in the file.
    """

    layout: ModelLayout
    image: Bytes
    exponents: tuple[int, ...]
    epsilon: float
    null_label: int
    model: dict[str, str]

    @property
    def hash(self) -> int:
        """64 bits that programs for this image carry in their header."""
        return int(self.digest()[:16], 16)

    def compiler(self) -> Compiler:
        """A compiler of passes of this model."""
        return Compiler(
            self.layout, self.exponents, self.epsilon, self.null_label, model_hash=self.hash
        )

    def _meta(self) -> dict[str, Any]:
        return {
            "shape": asdict(self.layout.shape),
            "accelerator": f"{accelerator_hash(self.layout.config):016x}",
            "labels": list(self.layout.labels),
            "exponents": list(self.exponents),
            "epsilon": self.epsilon,
            "null_label": self.null_label,
            "model": self.model,
        }

    def digest(self) -> str:
        """SHA-256 over metadata and image."""
        return _digest(self._meta(), self.image)

    def save(self, path: str | Path) -> str:
        """Write the file atomically. Returns its SHA-256."""
        path = Path(path)
        meta = self._meta()
        meta["sha256"] = _digest(meta, self.image)
        beside = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            # One metadata key only: the library writes several in random order.
            raw = safetensors_bytes({"image": self.image}, {_FORMAT: json.dumps(meta)})
            beside.write_bytes(raw)
            os.replace(beside, path)
        finally:
            beside.unlink(missing_ok=True)
        return str(meta["sha256"])

    @classmethod
    def load(cls, path: str | Path, config: AcceleratorConfig) -> PackedTransformer:
        """Map a file and check it whole.

        Raises:
            ImageError: missing, cut, altered, or packed for another accelerator.
        """
        path = Path(path)
        meta, image = _map_file(path)
        expected = f"{accelerator_hash(config):016x}"
        if meta["accelerator"] != expected:
            raise ImageError(
                f"{path}: packed for accelerator {meta['accelerator']}, but {config.name} is "
                f"{expected}; pack the model for this configuration"
            )
        if meta["sha256"] != _digest(meta, image):
            raise ImageError(
                f"{path}: content does not match its SHA-256; the file was altered, pack again"
            )
        shape = TransformerShape(
            **{**meta["shape"], "patch_nums": tuple(meta["shape"]["patch_nums"])}
        )
        layout = ModelLayout.of(shape, config, meta["labels"])
        if layout.size != image.nbytes:
            raise ImageError(
                f"{path} holds {image.nbytes} bytes, its sizes need {layout.size}; pack again"
            )
        return cls(
            layout, image, tuple(meta["exponents"]), meta["epsilon"], meta["null_label"],
            meta["model"],
        )  # fmt: skip


def pack_transformer(
    transformer: QuantizedTransformer,
    config: AcceleratorConfig,
    labels: Iterable[int] | None = None,
    model: dict[str, str] | None = None,
) -> PackedTransformer:
    """Pack a quantized transformer for an accelerator.

    Args:
        transformer: its preset and cache format must be those of the accelerator.
        config: the accelerator.
        labels: classes to hold vectors of; the null class comes along. Default: all of them.
        model: free description for the file.

    Raises:
        CompileError: a model that the accelerator cannot run.
    """
    if transformer.config.model_dump() != config.quant_config.model_dump():
        raise CompileError(
            f"the model is quantized with preset {transformer.config.name}, {config.name} runs "
            f"{config.quant}; quantize with {config.quant}"
        )
    if transformer.kv_format.name != config.kv_format:
        raise CompileError(
            f"the model's cache format is {transformer.kv_format.name}, {config.name} has "
            f"{config.kv_format}; quantize with kv_format {config.kv_format}"
        )
    null = transformer.null_label
    wanted = range(null) if labels is None else sorted(set(labels) - {null})
    layout = ModelLayout.of(transformer.shape, config, (*wanted, null))
    image = np.zeros(layout.size, np.uint8)
    exponents = []
    for block in range(layout.shape.depth):
        for site in ("qkv", "proj", "fc1", "fc2"):
            layer = transformer.layer(block, site)
            order = qkv_order(layout.shape.width) if site == "qkv" else None
            _pack_layer(image, layout.layer(block, site), layer, config, order)
            exponents.append(int(layer.exponent))
        kappa = np.repeat(transformer.kappa[block].astype(np.float16), HEAD_DIM)
        _put(image, layout.kappa(block), kappa)
    _pack_layer(image, layout.layer(0, HEAD), transformer.head, config, None)
    exponents.append(int(transformer.head.exponent))
    for label in layout.labels:
        _put(image, layout.class_offset(label), class_image(transformer, label))
    return PackedTransformer(
        layout, image, tuple(exponents), float(np.float32(transformer.eps)), null, model or {}
    )


def class_image(transformer: QuantizedTransformer, label: int) -> NDArray[np.float16]:
    """The vectors of a class as they lie in MODEL: blocks [depth, 6, C], then head [2, C]."""
    vectors = transformer.class_vectors(label)
    return np.concatenate([vectors.blocks.reshape(-1), vectors.head.reshape(-1)])


def _put(image: Bytes, offset: int, values: NDArray[Any]) -> None:
    raw = np.ascontiguousarray(values).reshape(-1).view(np.uint8)
    image[offset : offset + raw.nbytes] = raw


def _pack_layer(
    image: Bytes,
    plan: LayerPlan,
    layer: QuantizedLinear,
    config: AcceleratorConfig,
    order: NDArray[np.int64] | None,
) -> None:
    """All panels of a layer; outputs are padded with zero weights."""
    if (layer.rotate, layer.dual) != (plan.rotate, plan.dual):
        raise CompileError(
            f"{plan.name}: rotate {layer.rotate}, dual {layer.dual}; the accelerator's preset has "
            f"{plan.rotate}, {plan.dual}"
        )
    codes, scales, bias = layer.codes, layer.scales, layer.bias
    if order is not None:
        codes, scales, bias = codes[order], scales[order], bias[order]
    pad = plan.outputs - codes.shape[0]
    if pad:
        codes, scales = np.pad(codes, ((0, pad), (0, 0))), np.pad(scales, ((0, pad), (0, 0)))
        bias = np.pad(bias, (0, pad))
    bits = config.quant_config.code_bits
    for tile in plan.tiles:
        part = slice(tile.first, tile.first + tile.outputs)
        for inputs in plan.slices:
            for panel in plan.panels(tile, inputs):
                group = panel.group
                raw = pack_panel(
                    codes[part, group * GROUP : (group + 1) * GROUP], scales[part, group],
                    bias[part] if group == inputs.first else None, bits, config.weight_ports,
                )  # fmt: skip
                image[panel.offset : panel.offset + len(raw)] = np.frombuffer(raw, np.uint8)


def _digest(meta: dict[str, Any], image: Bytes) -> str:
    described = {key: value for key, value in meta.items() if key != "sha256"}
    digest = hashlib.sha256(json.dumps(described, sort_keys=True).encode())
    digest.update(f"\0image\0{image.nbytes}\0".encode())
    digest.update(image.data)
    return digest.hexdigest()


def _map_file(path: Path) -> tuple[dict[str, Any], Bytes]:
    """Metadata and image, a view of the mapped file. The library checks the structure first."""
    try:
        with safe_open(path, framework="numpy") as handle:
            text = (handle.metadata() or {}).get(_FORMAT)
    except OSError as error:
        raise ImageError(f"cannot read {path}: {error.strerror or error}") from error
    except SafetensorError as error:
        raise ImageError(
            f"{path} is not a whole safetensors file ({error}); it was cut or altered, pack again"
        ) from error
    if text is None:
        raise ImageError(
            f"{path} has no metadata {_FORMAT!r}; it is not a packed transformer of this version"
        )
    try:
        meta = json.loads(text)
        meta = {key: meta[key] for key in _KEYS}
    except (ValueError, TypeError, KeyError) as error:
        raise ImageError(f"{path}: its metadata was altered ({error}); pack again") from error
    raw = np.memmap(path, dtype=np.uint8, mode="r")
    length = int.from_bytes(raw[:8].tobytes(), "little")
    header: dict[str, Any] = json.loads(raw[8 : 8 + length].tobytes())
    offsets: Sequence[int] = header["image"]["data_offsets"]
    return meta, raw[8 + length :][slice(*offsets)]
