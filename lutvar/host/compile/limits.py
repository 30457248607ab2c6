# SPDX-License-Identifier: Apache-2.0
"""Which sizes of a model an accelerator has room for."""

from __future__ import annotations

from lutvar.contract.accelerator import HEAD_DIM, AcceleratorConfig
from lutvar.contract.quant_preset import GROUP
from lutvar.contract.shape import TransformerShape

from .errors import CompileError


def check_limits(shape: TransformerShape, config: AcceleratorConfig) -> None:
    """Raise CompileError naming the first limit of the accelerator that a model exceeds."""

    def fail(what: str, value: object, rule: str) -> None:
        raise CompileError(f"{what} is {value}; {config.name} {rule}")

    if shape.width % GROUP:
        fail("the model's width", shape.width, f"needs a multiple of {GROUP}")
    if shape.width != shape.heads * HEAD_DIM:
        fail("the model's heads", shape.heads, f"needs width / {HEAD_DIM} of {HEAD_DIM} columns")
    if shape.width > config.max_width:
        fail("the model's width", shape.width, f"has max_width {config.max_width}")
    if shape.hidden % GROUP:
        fail("the hidden width", shape.hidden, f"needs a multiple of {GROUP}")
    if shape.tokens > config.max_keys:
        fail("the number of tokens of an image", shape.tokens, f"has max_keys {config.max_keys}")
    if config.rows < 16:
        fail("rows", config.rows, "needs 16")
