# SPDX-License-Identifier: Apache-2.0
"""Packing: a quantized transformer as the bytes of region MODEL.

Its input is a protocol, so the host need not know how the model was quantized.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from lutvar.contract.accelerator import HEAD_DIM, AcceleratorConfig
from lutvar.contract.formats import NumberFormat
from lutvar.contract.memory import qkv_order
from lutvar.contract.quant_preset import SITE_NAMES, QuantConfig
from lutvar.contract.shape import TransformerShape

from .decoder.pack import CodedDecoder, plan_decoder, put_decoder
from .errors import CompileError
from .model_layout import HEAD, HIDDEN_VECTORS, ModelLayout
from .pack_layer import CodedLinear, pack_layer, put
from .packed import Allocate, PackedTransformer


class CodedVectors(Protocol):
    """AdaLN vectors of a class."""

    @property
    def blocks(self) -> NDArray[np.float16]:
        """[depth, 6, C]."""
        ...

    @property
    def head(self) -> NDArray[np.float16]:
        """[2, C]."""
        ...


class CodedTransformer(Protocol):
    """A transformer at the level of codes; `lutvar.quant.ptq.QuantizedTransformer` is one."""

    @property
    def shape(self) -> TransformerShape:
        """Sizes."""
        ...

    @property
    def config(self) -> QuantConfig:
        """Preset of the linears."""
        ...

    @property
    def kv_format(self) -> NumberFormat:
        """Format of q, k and v in the attention products."""
        ...

    @property
    def eps(self) -> float:
        """Of every layer norm."""
        ...

    @property
    def kappa(self) -> NDArray[np.float16]:
        """Attention scale times log2(e), [depth, heads]."""
        ...

    @property
    def null_label(self) -> int:
        """Index of the class "none", of the unconditional half."""
        ...

    @property
    def head(self) -> CodedLinear:
        """The layer behind the last norm."""
        ...

    def hidden_vector(self, block: int, name: Any, /) -> NDArray[np.float16] | None:
        """What GELU's results of a block are multiplied with ("factor"), or get added ("shift")."""
        ...

    def layer(self, block: int, name: Any, /) -> CodedLinear:
        """A layer of a block."""
        ...

    def each_class(self, labels: Sequence[int], /) -> Iterator[CodedVectors]:
        """AdaLN vectors of classes, one after the other."""
        ...


def pack_transformer(
    transformer: CodedTransformer,
    config: AcceleratorConfig,
    labels: Iterable[int] | None = None,
    model: dict[str, str] | None = None,
    allocate: Allocate | None = None,
    decoder: CodedDecoder | None = None,
) -> PackedTransformer:
    """Pack a quantized transformer for an accelerator.

    Args:
        transformer: its preset must be one that the accelerator runs, its cache format the same.
        config: the accelerator.
        labels: classes to hold vectors of; the null class comes along. Default: all of them.
        model: free description for the file.
        allocate: makes the image; `packed.scratch` keeps large ones out of RAM.
        decoder: of the tokenizer, which then runs on the accelerator too.

    Raises:
        CompileError: a model that the accelerator cannot run.
    """
    if transformer.kv_format.name != config.kv_format:
        raise CompileError(
            f"the model's cache format is {transformer.kv_format.name}, {config.name} has "
            f"{config.kv_format}; quantize with kv_format {config.kv_format}"
        )
    null = transformer.null_label
    labels = None if labels is None else sorted(set(labels))
    if labels and not 0 <= labels[0] <= labels[-1] <= null:
        wrong = labels[0] if labels[0] < 0 else labels[-1]
        raise CompileError(f"class {wrong}: the model has 0 to {null - 1}")
    classes = range(null) if labels is None else [label for label in labels if label != null]
    hidden = {
        name: [transformer.hidden_vector(i, name) for i in range(transformer.shape.depth)]
        for name in HIDDEN_VECTORS
    }
    present = [name for name, rows in hidden.items() if any(row is not None for row in rows)]
    depth = transformer.shape.depth
    blocks = [[transformer.layer(i, site) for site in SITE_NAMES] for i in range(depth)]
    layers = [*itertools.chain(*blocks), transformer.head]
    layout = ModelLayout.of(
        transformer.shape, config, (*classes, null), transformer.config, present,
        [layer.terms for layer in layers],
    )  # fmt: skip
    pixels = None if decoder is None else plan_decoder(decoder, config, layout.size)
    size = layout.size if pixels is None else pixels.layout.end
    image = np.zeros(size, np.uint8) if allocate is None else allocate(size)
    exponents = tuple(int(weights.exponent) for layer in layers for weights in layer.sets)
    for block in range(depth):
        for site, layer in zip(SITE_NAMES, blocks[block], strict=True):
            order = qkv_order(layout.shape.width) if site == "qkv" else None
            pack_layer(image, layout.layer(block, site), layer, config, order)
        kappa = np.repeat(transformer.kappa[block].astype(np.float16), HEAD_DIM)
        put(image, layout.kappa(block), kappa)
        for name in layout.hidden:
            vector = hidden[name][block]
            if vector is None:
                vector = np.full(layout.shape.hidden, name == "factor", np.float16)
            put(image, layout.hidden_vector(block, name), vector)
    pack_layer(image, layout.layer(0, HEAD), transformer.head, config)
    each = transformer.each_class(layout.labels)
    for label, vectors in zip(layout.labels, each, strict=True):
        put(image, layout.class_offset(label), class_image(vectors))
    if decoder is not None and pixels is not None:
        put_decoder(image, decoder, pixels)
    return PackedTransformer(
        layout, image, exponents, float(np.float32(transformer.eps)), null, model or {}, pixels
    )


def class_image(vectors: CodedVectors) -> NDArray[np.float16]:
    """The vectors of a class as they lie in MODEL: blocks [depth, 6, C], then head [2, C]."""
    return np.concatenate([vectors.blocks.reshape(-1), vectors.head.reshape(-1)])
