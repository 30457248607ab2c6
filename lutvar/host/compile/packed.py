# SPDX-License-Identifier: Apache-2.0
"""A quantized transformer as the bytes of region MODEL, and the file that holds it.

Behind it may lie the tokenizer's decoder.

A file is safetensors: one uint8 tensor, the image, which starts at a multiple of 4 KiB, and JSON
metadata: sizes, labels, scale exponents, the hash of the accelerator, and a SHA-256 over
everything. Loading checks all of it once, then hands out a view of the mapped file. Neither torch
nor the model is needed for that.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from lutvar.contract.accelerator import AcceleratorConfig
from lutvar.contract.quant_preset import QuantConfig
from lutvar.contract.shape import TransformerShape
from lutvar.contract.terms import ONE_TERM
from lutvar.files import OutputError, json_text, write_file

from .compiler import Compiler
from .decoder.pack import PackedDecoder
from .errors import CompileError, ImageError
from .model_layout import PAGE, ModelLayout
from .program import accelerator_hash

FORMAT = "lutvar-image-1"  #: the metadata entry of image files
_KEYS = (
    "shape", "accelerator", "labels", "quant", "hidden", "exponents", "epsilon", "null_label",
    "model", "sha256",
)  # fmt: skip
#: Bytes that are hashed or written at a time.
_PIECE = 1 << 24
Bytes = NDArray[np.uint8]
#: Makes an array of zeros of so many bytes.
Allocate = Callable[[int], Bytes]


@dataclass(frozen=True, eq=False)
class PackedTransformer:
    """A transformer packed for one accelerator.

    Attributes:
        layout: where everything lies.
        image: contents of region MODEL, uint8.
        exponents: scale exponent of each set of weights, in the order of `layout.layers`.
        epsilon: of the norms, a float32 value.
        null_label: class of the unconditional halves.
        model: free description (name, source, digest), kept in the file.
        decoder: the tokenizer's, which lies behind the transformer; or None.
    """

    layout: ModelLayout
    image: Bytes
    exponents: tuple[int, ...]
    epsilon: float
    null_label: int
    model: dict[str, str]
    decoder: PackedDecoder | None = None

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
        terms = self.layout.terms
        return {
            # Only where there is something to say: images of one term each are what they were.
            **({"terms": [list(pair) for pair in terms]} if set(terms) != {ONE_TERM} else {}),
            **({"decoder": self.decoder.as_json()} if self.decoder is not None else {}),
            "shape": asdict(self.layout.shape),
            "accelerator": f"{accelerator_hash(self.layout.config):016x}",
            "labels": list(self.layout.labels),
            "quant": self.layout.quant.model_dump(mode="json"),
            "hidden": list(self.layout.hidden),
            "exponents": list(self.exponents),
            "epsilon": self.epsilon,
            "null_label": self.null_label,
            "model": self.model,
        }

    def digest(self) -> str:
        """SHA-256 over metadata and image, computed once: the image is not to change."""
        return self._sha256

    @cached_property
    def _sha256(self) -> str:
        return _digest(self._meta(), self.image)

    def save(self, path: str | Path) -> str:
        """Write the file, whole or not at all. Returns its SHA-256.

        Raises:
            OutputError: see `lutvar.files.write_file`.
        """
        meta = self._meta()
        meta["sha256"] = _digest(meta, self.image)
        write_file(path, _pieces(meta, self.image))
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
        _check(path, meta, image)
        shape = TransformerShape(
            **{**meta["shape"], "patch_nums": tuple(meta["shape"]["patch_nums"])}
        )
        quant = QuantConfig(**meta["quant"])
        terms = meta.get("terms", [])
        try:
            layout = ModelLayout.of(shape, config, meta["labels"], quant, meta["hidden"], terms)
            decoder, size = None, layout.size
            if "decoder" in meta:
                decoder = PackedDecoder.of_json(meta["decoder"], config, size)
                size = decoder.layout.end
        except CompileError as error:
            raise ImageError(f"{path}: {error}; pack again") from error
        if size != image.nbytes:
            raise ImageError(
                f"{path} holds {image.nbytes} bytes, its sizes need {size}; pack again"
            )
        loaded = cls(
            layout, image, tuple(meta["exponents"]), meta["epsilon"], meta["null_label"],
            meta["model"], decoder,
        )  # fmt: skip
        vars(loaded)["_sha256"] = meta["sha256"]  # checked above: nobody needs to hash it again
        return loaded


@contextmanager
def scratch(folder: Path) -> Iterator[Allocate]:
    """Memory for a large image, in a nameless file of a folder instead of RAM.

    The argument of `pack.pack_transformer` that makes images; they are valid inside the `with`
    block. The file is gone afterwards, however the process ends.

    Raises:
        OutputError: the folder cannot be written, or has too little space.
    """
    with ExitStack() as opened:

        def allocate(size: int) -> Bytes:
            try:
                file = opened.enter_context(tempfile.TemporaryFile(dir=folder))
                # Reserved at once: a full disk is an error here and no SIGBUS later.
                os.posix_fallocate(file.fileno(), 0, size)
            except OSError as error:
                raise OutputError(
                    f"{folder}: no {size:,} bytes for the image: {error.strerror}; free space or "
                    "choose another folder"
                ) from error
            return np.memmap(file, np.uint8, "r+", shape=(size,))

        yield allocate


def _pieces(meta: dict[str, Any], image: Bytes) -> Iterator[bytes]:
    """The file piece by piece: length, JSON header filled up to a page with blanks, image."""
    described = {
        "__metadata__": {FORMAT: json_text(meta)},
        "image": {"dtype": "U8", "shape": [image.nbytes], "data_offsets": [0, image.nbytes]},
    }
    header = json_text(described).encode()
    header += b" " * (-(8 + len(header)) % PAGE)
    yield len(header).to_bytes(8, "little") + header
    for start in range(0, image.nbytes, _PIECE):
        yield image[start : start + _PIECE].tobytes()


def read_image(path: str | Path) -> tuple[dict[str, Any], Bytes]:
    """Metadata and image of a file for whatever accelerator, all of it checked.

    Raises:
        ImageError: missing, cut or altered.
    """
    path = Path(path)
    meta, image = _map_file(path)
    _check(path, meta, image)
    return meta, image


def _check(path: Path, meta: dict[str, Any], image: Bytes) -> None:
    if meta["sha256"] != _digest(meta, image):
        raise ImageError(
            f"{path}: content does not match its SHA-256; the file was altered, pack again"
        )


def _digest(meta: dict[str, Any], image: Bytes) -> str:
    described = {key: value for key, value in meta.items() if key != "sha256"}
    digest = hashlib.sha256(json_text(described, sort_keys=True).encode())
    digest.update(f"\0image\0{image.nbytes}\0".encode())
    for start in range(0, image.nbytes, _PIECE):
        digest.update(image[start : start + _PIECE].data)
    return digest.hexdigest()


def _pairs(value: Any) -> list[tuple[int, int]]:
    """Terms of layers. Raises ValueError for anything else."""
    pairs = [(weights, inputs) for weights, inputs in value]
    if any(type(n) is not int or n not in (1, 2) for pair in pairs for n in pair):
        raise ValueError(f"terms {value}: each layer has two numbers, 1 or 2")
    return pairs


def _map_file(path: Path) -> tuple[dict[str, Any], Bytes]:
    """Metadata and image, a view of the mapped file. The library checks the structure first."""
    if path.exists() and not path.is_file():
        raise ImageError(f"cannot read {path}: it is no regular file")
    try:
        with safe_open(path, framework="numpy") as handle:
            text = (handle.metadata() or {}).get(FORMAT)
    except OSError as error:
        raise ImageError(f"cannot read {path}: {error.strerror or error}") from error
    except SafetensorError as error:
        raise ImageError(
            f"{path} is not a whole safetensors file ({error}); it was cut or altered, pack again"
        ) from error
    if text is None:
        raise ImageError(
            f"{path} has no metadata {FORMAT!r}; it is not a packed transformer of this version"
        )
    try:
        meta = json.loads(text)
        more: dict[str, Any] = {"terms": _pairs(meta["terms"])} if "terms" in meta else {}
        more |= {"decoder": dict(meta["decoder"])} if "decoder" in meta else {}
        meta = {key: meta[key] for key in _KEYS} | more
    except (ValueError, TypeError, KeyError) as error:
        raise ImageError(f"{path}: its metadata was altered ({error}); pack again") from error
    raw = np.memmap(path, dtype=np.uint8, mode="r")
    length = int.from_bytes(raw[:8].tobytes(), "little")
    header: dict[str, Any] = json.loads(raw[8 : 8 + length].tobytes())
    offsets: Sequence[int] = header["image"]["data_offsets"]
    return meta, raw[8 + length :][slice(*offsets)]
