# SPDX-License-Identifier: Apache-2.0
"""Bit operations of an image, and the score threshold that a budget of extra ones allows.

Source: Shift-and-Sum (arXiv:2606.16131) and its released code. A product of operands with a and b
bits counts a b, an addition 16. All counts are for one image without the unconditional half, and
without the tokenizer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from lutvar.quant.methods.layers.layer import Layer
from lutvar.quant.var import VarConfig
from lutvar.quant.var.sites import LinearSite

#: Bits of an operand that is not quantized, and of an addition.
FLOAT_BITS = 16
#: n_hat is at most this: 8 copies.
MAX_DOUBLINGS = 3
#: Thresholds that are tried: 1/STEPS, 2/STEPS, ... 1.
STEPS = 10_000


class Scores(NamedTuple):
    """Mean attention to each token in one scale step of one block.

    Attributes:
        scores_BHL: mean over the step's queries.
        queries: how many those are.
    """

    scores_BHL: Tensor
    queries: int


def linear_operations(
    config: VarConfig,
    shapes: Mapping[LinearSite, tuple[int, int]],
    layers: Mapping[LinearSite, Layer],
    vectors: int = 1,
) -> float:
    """Bit operations of all linears.

    Args:
        config: scales of the model.
        shapes: (outputs, inputs) of every linear.
        layers: the quantized ones; the others count with `FLOAT_BITS`.
        vectors: how often AdaLN vectors are computed for an image.
    """
    tokens = config.tokens
    total = 0.0
    for site, (outputs, inputs) in shapes.items():
        # AdaLN vectors are no tokens; word embeddings are not computed for the first scale.
        often = vectors if site.name in ("ada_lin", "head_ada", "shared_ada") else tokens
        if site.name == "word_embed":
            often = tokens - config.patch_nums[0] ** 2
        layer = layers.get(site)
        w = layer.weight.bits if layer is not None and layer.weight is not None else FLOAT_BITS
        a = (
            layer.activation.bits
            if layer is not None and layer.activation is not None
            else FLOAT_BITS
        )
        total += outputs * inputs * often * w * a
    return total


def attention_operations(config: VarConfig, qk_bits: float, pv_bits: float) -> float:
    """Bit operations of both products of attention, given those of one product of operands."""
    total, context = 0.0, 0
    for side in config.patch_nums:
        context += side * side
        total += side * side * context * config.width * (qk_bits + pv_bits)
    return total * config.depth


def extra_operations(
    steps: Iterable[Scores], theta: Tensor, head_dim: int, pv_bits: float
) -> Tensor:
    """Extra bit operations of one image for each threshold, [T].

    Scores are averaged (16 bits a term), compared and counted; a token above theta, 2 theta and
    4 theta has 1, 3 and 7 further copies, each with its additions and products.
    """
    total_T = torch.zeros(len(theta), dtype=torch.float64)
    for scores_BHL, queries in steps:
        B = scores_BHL.shape[0]
        each = head_dim * FLOAT_BITS + queries + queries * head_dim * pv_bits
        ascending, _ = scores_BHL.flatten().sort()
        copies_T = torch.zeros(len(theta), dtype=torch.float64)
        for doubling in range(MAX_DOUBLINGS):
            reached = torch.searchsorted(ascending, theta.float() * 2**doubling, right=True)
            copies_T += (len(ascending) - reached).double() * 2**doubling
        fixed = scores_BHL.numel() * (queries * FLOAT_BITS + FLOAT_BITS + MAX_DOUBLINGS + 1)
        total_T += (fixed + copies_T * each) / B
    return total_T


def find_threshold(
    steps: Iterable[Scores], budget: float, head_dim: int, pv_bits: float
) -> float | None:
    """The smallest threshold whose extra bit operations are within the budget; None if none is."""
    theta = torch.arange(1, STEPS + 1, dtype=torch.float64) / STEPS
    extra_T = extra_operations(steps, theta, head_dim, pv_bits)
    within = (extra_T <= budget).nonzero()
    return float(theta[within[0, 0]]) if len(within) else None
