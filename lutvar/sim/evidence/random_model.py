# SPDX-License-Identifier: Apache-2.0
"""Transformers of any size with random weights, made layer by layer at code level.

The float model of d30 has two billion parameters, most of them in linears for AdaLN that the
device never sees. Here each layer's weight exists in float32 only while it is quantized, so that
30 blocks need little more memory than their codes.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch

from lutvar.contract.accelerator import AcceleratorConfig
from lutvar.contract.quant_preset import SITE_NAMES
from lutvar.contract.shape import TransformerShape
from lutvar.quant.golden.pointwise import Records, records
from lutvar.quant.ptq.class_vectors import ClassVectors
from lutvar.quant.ptq.linear import QuantizedLinear, quantize_linear
from lutvar.quant.ptq.transformer import QuantizedTransformer
from lutvar.quant.var.sites import LinearSite

CLASSES = 1000  #: as the released models have; vectors of a class are drawn when asked for


def random_transformer(
    shape: TransformerShape,
    config: AcceleratorConfig,
    *,
    seed: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> QuantizedTransformer:
    """Normal weights, quantized for an accelerator; equal arguments give equal codes.

    Args:
        shape: sizes.
        config: its formats are used.
        seed: of the draws.
        progress: called with (layers done, layers).
    """
    outputs = {
        "qkv": (3 * shape.width, shape.width),
        "proj": (shape.width, shape.width),
        "fc1": (shape.hidden, shape.width),
        "fc2": (shape.width, shape.hidden),
    }
    sites = [LinearSite(i, name) for i in range(shape.depth) for name in SITE_NAMES]
    sites.append(LinearSite(shape.depth, "head"))
    layers: dict[LinearSite, QuantizedLinear] = {}
    for number, site in enumerate(sites):
        size = outputs.get(site.name, (shape.vocab, shape.width))
        rng = np.random.default_rng([seed, number])
        weight = rng.standard_normal(size, np.float32) / np.float32(math.sqrt(size[1]))
        bias = 0.1 * rng.standard_normal(size[0], np.float32)
        layers[site] = quantize_linear(
            site, torch.from_numpy(weight), torch.from_numpy(bias), config.quant_config
        )
        if progress is not None:
            progress(number + 1, len(sites))
    rng = np.random.default_rng([seed, len(sites)])
    kappa = rng.uniform(4, 40, (shape.depth, shape.heads)) / math.log(2)

    def source(label: int) -> ClassVectors:
        draw = np.random.default_rng([seed, len(sites) + 1, label])
        blocks = 0.3 * draw.standard_normal((shape.depth, 6, shape.width))
        head = 0.3 * draw.standard_normal((2, shape.width))
        blocks[:, [0, 3]] += 1  # scales of the norms
        head[0] += 1
        return ClassVectors(blocks.astype(np.float16), head.astype(np.float16))

    return QuantizedTransformer(
        shape, CLASSES, config.quant_config, config.kv, 1e-6, layers, kappa.astype(np.float16),
        source,
    )  # fmt: skip


def random_records(
    shape: TransformerShape, config: AcceleratorConfig, tokens: int, rng: np.random.Generator
) -> tuple[Records, Records]:
    """K and V records of tokens that no pass has computed: [depth, heads, tokens, ...]."""
    made = []
    for kind in ("k", "v"):
        blocks = []
        for _ in range(shape.depth):
            x = rng.standard_normal((shape.heads, tokens, 64), np.float32)
            blocks.append(records(x, config.kv, kind))
        made.append(
            Records(np.stack([b.codes for b in blocks]), np.stack([b.scales for b in blocks]))
        )
    return made[0], made[1]
