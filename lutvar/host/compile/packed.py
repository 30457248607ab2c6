# SPDX-License-Identifier: Apache-2.0
"""A quantized transformer as the bytes of region MODEL, and the file that holds it.

A file is safetensors: one uint8 tensor, the image, and JSON metadata: sizes, labels, scale
exponents, the hash of the accelerator, and a SHA-256 over everything. Loading checks all of it
once, then hands out a view of the mapped file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as safetensors_bytes

from lutvar.contract.accelerator import AcceleratorConfig
from lutvar.contract.shape import TransformerShape
from lutvar.files import json_text, write_file

from .compiler import Compiler
from .errors import ImageError
from .model_layout import ModelLayout
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
        exponents: scale exponent of each layer, in the order of `layout.layers`.
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
        meta = self._meta()
        meta["sha256"] = _digest(meta, self.image)
        # One metadata key only: the library writes several in random order.
        raw = safetensors_bytes({"image": self.image}, {_FORMAT: json_text(meta)})
        write_file(path, raw)
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


def _digest(meta: dict[str, Any], image: Bytes) -> str:
    described = {key: value for key, value in meta.items() if key != "sha256"}
    digest = hashlib.sha256(json_text(described, sort_keys=True).encode())
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
