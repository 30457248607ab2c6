# SPDX-License-Identifier: Apache-2.0
"""Files of quantized transformers: the layers as in `ptq.files`, and what belongs to the rest.

More tensors: `kappa` (float16 [depth, heads]), `SITE.factors` and `SITE.shifts` (float32
[K], where there are any), and, for models of few classes, `classes.blocks` (float16
[classes + 1, depth, 6, C]) and `classes.head` (float16 [classes + 1, 2, C]). More metadata:
shape, number of classes, format of the cache, epsilon.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np

from lutvar.contract.formats import get_format
from lutvar.contract.quant_preset import QuantConfig
from lutvar.contract.shape import TransformerShape
from lutvar.files import json_text

from .class_vectors import ClassVectors
from .files import QuantizedFileError, Tensors, read_layers, write_layers
from .linear import QuantizationError
from .transformer import KEPT_CLASSES, QuantizedTransformer

_FORMAT = "lutvar-transformer-1"
#: What is folded into the vectors of norms; needed again for classes that are not in the file.
_FOLDED = ("factors", "shifts")


def save(model: QuantizedTransformer, path: str | Path) -> None:
    """Write a quantized transformer; the file holds either the old or the complete new content."""
    tensors: Tensors = {"kappa": model.kappa}
    for name in _FOLDED:
        for site, vector in getattr(model, name).items():
            tensors[f"{site}.{name}"] = vector
    if model.classes < KEPT_CLASSES:
        labels = range(model.classes + 1)
        tensors["classes.blocks"] = np.stack([model.class_vectors(c).blocks for c in labels])
        tensors["classes.head"] = np.stack([model.class_vectors(c).head for c in labels])
    metadata = {
        "shape": json_text(asdict(model.shape)),
        "classes": str(model.classes),
        "kv_format": model.kv_format.name,
        "eps": repr(model.eps),
    }
    write_layers(path, _FORMAT, model.config, model.layers.values(), metadata, tensors)


def load(path: str | Path, config: QuantConfig | None = None) -> QuantizedTransformer:
    """Read a quantized transformer and check all of it.

    Class vectors of models with many classes are not in the file: `QuantizedTransformer.attach`.

    Raises:
        QuantizedFileError: as `ptq.files.load`.
    """
    content = read_layers(path, _FORMAT, config)
    metadata, tensors = content.metadata, content.tensors
    try:
        shape = json.loads(metadata["shape"])
        shape["patch_nums"] = tuple(shape["patch_nums"])
        vectors = {}
        if "classes.blocks" in tensors:
            pairs = zip(tensors["classes.blocks"], tensors["classes.head"], strict=True)
            vectors = {label: ClassVectors(*pair) for label, pair in enumerate(pairs)}
        folded = {
            name: {
                site: tensors[f"{site}.{name}"]
                for site in content.layers
                if f"{site}.{name}" in tensors
            }
            for name in _FOLDED
        }
        return QuantizedTransformer(
            shape=TransformerShape(**shape),
            classes=int(metadata["classes"]),
            config=content.config,
            kv_format=get_format(metadata["kv_format"]),
            eps=float(metadata["eps"]),
            layers=content.layers,
            kappa=tensors["kappa"],
            vectors=vectors,
            factors=folded["factors"],
            shifts=folded["shifts"],
        )
    except (KeyError, TypeError, ValueError, QuantizationError) as error:
        raise QuantizedFileError(f"{path}: its parts do not fit: {error}") from error
