# SPDX-License-Identifier: Apache-2.0
"""The small models on which FPQVAR and Shift-and-Sum are compared with their released code."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from lutvar.quant.methods import CalibrationSet, QuantizedVar, Recipe, load_recipe
from lutvar.quant.methods.calibration.samples import from_tokens
from lutvar.quant.var import Var, Vqvae
from lutvar.quant.var.config import VarConfig, VqvaeConfig

from .var_weights import fill

PATCH_NUMS = (1, 2, 3, 4)
LABELS = (3, 0)

VAR = VarConfig(
    depth=2,
    width=256,
    heads=4,
    patch_nums=PATCH_NUMS,
    num_classes=5,
    vocab=96,
    z_channels=32,
    cond_drop_rate=0.0,
)
VQVAE = VqvaeConfig(vocab=96, z_channels=32, ch=32, patch_nums=PATCH_NUMS, share_quant_resi=4)


class FpqvarCase(NamedTuple):
    """One setting of FPQVAR's scripts, and the shipped recipe that is the same.

    Attributes:
        recipe: its name; factors come from `factors` in place of its step `galt`.
        bits: of weights and inputs.
        kv_bits: of the cache, or None.
        signed: factors of which some are not positive.
        heads: the cache lies in memory as with FlashAttention or xFormers, heads inside tokens.
    """

    recipe: str
    bits: int
    kv_bits: int | None = None
    signed: bool = False
    heads: bool = False

    @property
    def key(self) -> str:
        """Name of its fixture."""
        return self.recipe + "-signed" * self.signed + "-heads" * self.heads


FPQVAR = (
    FpqvarCase("fpqvar-fp4-exact", 4),
    FpqvarCase("fpqvar-fp4-exact", 4, signed=True),
    FpqvarCase("fpqvar-fp4-kv6-exact", 4, 6),
    FpqvarCase("fpqvar-fp4-kv4-exact", 4, 4),
    FpqvarCase("fpqvar-fp4-kv4-exact", 4, 4, heads=True),
    FpqvarCase("fpqvar-fp6-exact", 6),
    FpqvarCase("fpqvar-fp6-kv6-exact", 6, 6),
)


#: Extra bit operations that are allowed, as in the paper.
SHIFT_AND_SUM_ALPHA = 0.01


#: A short reconstruction with a rate at which a few steps change decisions, and its random seed.
RECONSTRUCT: dict[str, Any] = {"steps": 12, "batch": 3, "rate": 0.05, "penalty": 1e-3}
RECONSTRUCT_SEED = 7


def soft_weights(model: nn.Module) -> None:
    """Weights by formula, with heads whose attention is spread.

    A head that looks at one token gives values that are on a grid already, and whatever quantizes
    them next meets exact ties.
    """
    fill(model)
    for name, value in model.named_parameters():
        if name.endswith("scale_mul_1H11"):
            with torch.no_grad():
                value.copy_(torch.linspace(1.0, 2.0, value.numel()).view_as(value))


def given_tokens() -> Tensor:
    """Tokens of all scales of both images, [2, L], from a fixed stream."""
    draw = np.random.default_rng(20250527)
    return torch.from_numpy(draw.integers(0, VAR.vocab, (len(LABELS), VAR.tokens)))


def factors(signed: bool) -> dict[str, list[Tensor]]:
    """Channel factors of each block by linear, 0.3 to 2.2; every 37th negative if signed."""
    result: dict[str, list[Tensor]] = {}
    for name in ("qkv", "fc1"):
        rows = []
        for block in range(VAR.depth):
            draw = np.random.default_rng(zlib.crc32(f"{name}{block}".encode()))
            s = np.exp(draw.uniform(np.log(0.3), np.log(2.2), VAR.width)).astype(np.float32)
            if signed:
                s[5::37] *= -1
            rows.append(torch.from_numpy(s))
        result[name] = rows
    return result


def compact(logits_RLV: Any) -> np.ndarray:
    """What a fixture keeps of logits [rows, L, vocab]: every third entry, float32."""
    return np.asarray(torch.as_tensor(logits_RLV)[..., ::3], dtype=np.float32)


@contextmanager
def in_float64(quantized: QuantizedVar, var: Var, vqvae: Vqvae) -> Iterator[None]:
    """Model, tokenizer and quantized layers compute in float64 for the `with` block."""
    for layer in quantized.layers.values():
        assert layer.rounded_OI is not None
        layer.rounded_OI = layer.rounded_OI.double()
        layer.bias_O = None if layer.bias_O is None else layer.bias_O.double()
    var.double()
    vqvae.double()
    try:
        yield
    finally:
        var.float()
        vqvae.float()


def case_models() -> tuple[Var, Vqvae]:
    """The transformer and its tokenizer with `soft_weights`."""
    var, vqvae = Var(VAR).eval(), Vqvae(VQVAE).eval()
    soft_weights(var)
    soft_weights(vqvae)
    return var, vqvae


def exact_recipe(bits: int) -> Recipe:
    """The shipped Shift-and-Sum recipe, rounded to nearest."""
    recipe = load_recipe(f"shift-and-sum-w{bits}a{bits}-exact")
    assert recipe.attention is not None and recipe.attention["alpha"] == SHIFT_AND_SUM_ALPHA
    return recipe.model_copy(update={"steps": ()})


def samples(var: Var, vqvae: Vqvae) -> CalibrationSet:
    """Both images with the given tokens, and the released sampling for what is drawn."""
    drawn = from_tokens(var, vqvae, torch.tensor(LABELS), given_tokens())
    return replace(drawn, cfg=1.5, top_p=0.96)
