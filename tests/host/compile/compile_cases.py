# SPDX-License-Identifier: Apache-2.0
"""Shapes, accelerators and passes for the compiler's tests."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from lutvar.contract.accelerator import AcceleratorConfig, load_accelerator
from lutvar.contract.shape import TransformerShape
from lutvar.host.compile.compiler import CompiledPass, Compiler
from lutvar.host.compile.model_layout import ModelLayout
from lutvar.host.compile.steps import StepShape

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
