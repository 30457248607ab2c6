# SPDX-License-Identifier: Apache-2.0
"""Shapes, accelerators, passes and a small model for the compiler's tests."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Any

import numpy as np
import torch

from lutvar.contract.accelerator import AcceleratorConfig, load_accelerator
from lutvar.contract.quant_preset import load_quant, preset_names
from lutvar.contract.shape import TransformerShape
from lutvar.host.compile.compiler import CompiledPass, Compiler
from lutvar.host.compile.model_layout import ModelLayout
from lutvar.host.compile.steps import StepShape
from lutvar.quant.ptq.linear import PrequantizedWeight
from lutvar.quant.ptq.transformer import QuantizedTransformer, quantize_transformer
from lutvar.quant.var import Var, VarConfig
from lutvar.quant.var.sites import LinearSite

DIGITS = TransformerShape(128, 4, 2, 512, 96, (1, 2, 3, 4))
#: Odd in every way: heads, hidden and vocabulary that no tile size divides, long scales.
ODD = TransformerShape(384, 2, 6, 1408, 300, (1, 3, 7, 9))


def accelerator(name: str = "small-fp4", **changes: Any) -> AcceleratorConfig:
    return AcceleratorConfig(**{**load_accelerator(name).model_dump(), **changes})


def compiler(shape: TransformerShape, config: AcceleratorConfig) -> Compiler:
    return Compiler(ModelLayout.of(shape, config, labels=range(11)))


def compile_pass(
    shape: TransformerShape, config: AcceleratorConfig, steps: Iterable[StepShape]
) -> CompiledPass:
    return compiler(shape, config).compile(list(steps), check=True)


def staggered(shape: TransformerShape, guided: bool = True) -> list[StepShape]:
    """One image at each scale."""
    tokens = shape.scale_tokens
    return [StepShape(k, k, sum(tokens[:k]), n, guided, 0.5 * guided) for k, n in enumerate(tokens)]


@cache
def transformer(
    preset: str,
    width: int = 256,
    vocab: int = 200,
    hidden: tuple[str, ...] = (),
    terms: tuple[tuple[LinearSite, tuple[int, int]], ...] = (),
) -> QuantizedTransformer:
    """Random weights; logits of every row differ. `hidden`: vectors behind GELU, of block 1."""
    torch.manual_seed(1)
    config = VarConfig(
        depth=2, width=width, heads=width // 64, patch_nums=(1, 2, 3, 4), num_classes=3,
        vocab=vocab, z_channels=8,
    )  # fmt: skip
    var = Var(config)
    with torch.no_grad():
        for p in var.parameters():
            p.add_(torch.randn_like(p) * 0.05)
    shipped = preset in preset_names("accelerator")
    quant = load_accelerator(preset).quant_config if shipped else load_quant(preset)
    rng, site = np.random.default_rng(2), LinearSite(1, "fc2")
    factors, shifts, weights = {}, {}, {}
    if "factor" in hidden:
        factors[site] = rng.uniform(0.5, 2, config.hidden).astype(np.float32)
    if "shift" in hidden:
        shifts[site] = rng.normal(0, 0.3, config.hidden).astype(np.float32)
        plain = quantize_transformer(var, quant, progress=False).layers[site]
        amax = plain.scales.view(np.float16).astype(np.float64)
        weights[site] = PrequantizedWeight(plain.codes, torch.from_numpy(amax), None)
    return quantize_transformer(
        var, quant, factors=factors, progress=False, prequantized=weights, shifts=shifts,
        terms=dict(terms),
    )  # fmt: skip
