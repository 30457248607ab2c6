# SPDX-License-Identifier: Apache-2.0
"""AdaLN vectors of a class as the accelerator reads them, with what recipes fold into them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lutvar.quant.var import Var
from lutvar.quant.var.sites import LinearSite, SiteName

from .linear import PrequantizedWeight, QuantizationError

#: Vectors of a block and of the head for a class, in the order of `ClassVectors`.
BLOCK_VECTORS = ("scale1", "shift1", "gate1", "scale2", "shift2", "gate2")
HEAD_VECTORS = ("scale", "shift")
#: Sites whose input comes from a norm: channel factors can be folded there.
FACTOR_SITES: tuple[SiteName, ...] = ("qkv", "fc1", "head")

Half = NDArray[np.float16]
#: Site -> s [I] float32, positive: the layer's input is multiplied by s, its weights divided by s.
Factors = Mapping[LinearSite, NDArray[np.float32]]
#: Site -> t [I] float32, added to the layer's input after the factors; its bias is reduced by W t.
Shifts = Mapping[LinearSite, NDArray[np.float32]]


class ClassVectors(NamedTuple):
    """AdaLN vectors of one class in FP16, channel factors and shifts folded in. C columns.

    Attributes:
        blocks: [depth, 6, C], order `BLOCK_VECTORS`; 1 is already added to the scales.
        head: [2, C], order `HEAD_VECTORS`; the same.
    """

    blocks: Half
    head: Half

    def block(self, index: int, name: str) -> Half:
        """One vector of a block, [C]."""
        return self.blocks[index, BLOCK_VECTORS.index(name)]


class VectorSource:
    """Computes class vectors from the float model."""

    def __init__(self, var: Var, factors: Factors, shifts: Shifts) -> None:
        self.var, self.factors, self.shifts = var, factors, shifts

    @torch.no_grad()
    def __call__(self, label: int) -> ClassVectors:
        depth = self.var.config.depth
        cond = self.var.condition(torch.tensor([label], device=self.var.lvl_1L.device))
        blocks = []
        for i, mod in enumerate(cond.blocks):
            first = self._fold(LinearSite(i, "qkv"), mod.scale_attn, mod.shift_attn)
            second = self._fold(LinearSite(i, "fc1"), mod.scale_ffn, mod.shift_ffn)
            blocks.append([*first, mod.gate_attn, *second, mod.gate_ffn])
        head = self._fold(LinearSite(depth, "head"), cond.head_scale_B1C, cond.head_shift_B1C)
        return ClassVectors(
            np.stack([np.stack([_half(v) for v in block]) for block in blocks]),
            np.stack([_half(v) for v in head]),
        )

    def _fold(self, site: LinearSite, scale: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
        """(1 + scale) s and shift s + t in float64."""
        a, b = scale.cpu().double() + 1, shift.cpu().double()
        if site in self.factors:
            factor = torch.from_numpy(self.factors[site]).double()
            a, b = a * factor, b * factor
        if site in self.shifts:
            b = b + torch.from_numpy(self.shifts[site]).double()
        return a, b


def _half(v: Tensor) -> Half:
    """FP16 [C], rounded once; refuses what FP16 cannot hold."""
    values = v.detach().cpu().double().numpy().reshape(-1)
    if not (np.abs(values) <= 65504).all():
        raise QuantizationError(
            f"an AdaLN vector reaches {np.abs(values).max():g}; FP16 ends at 65504 "
            "(smaller channel factors help)"
        )
    return values.astype(np.float16)


def check_factors(factors: Factors, inputs: Mapping[LinearSite, int]) -> None:
    """Raise QuantizationError for factors that no norm takes in; `inputs`: site -> I."""
    for site, s in factors.items():
        if site not in inputs or site.name not in FACTOR_SITES:
            raise QuantizationError(
                f"{site}: channel factors can be folded at {', '.join(FACTOR_SITES)} only, "
                "whose inputs come from a norm"
            )
        if s.shape != (inputs[site],) or not (np.isfinite(s) & (s > 0)).all():
            raise QuantizationError(
                f"{site}: channel factors of shape {s.shape}; they must be {inputs[site]} finite "
                "numbers above 0"
            )


def check_shifts(
    shifts: Shifts,
    inputs: Mapping[LinearSite, int],
    prequantized: Mapping[LinearSite, PrequantizedWeight],
) -> None:
    """Raise QuantizationError for shifts that no norm or no bias takes in; `inputs`: site -> I."""
    for site, t in shifts.items():
        if site not in inputs or site.name not in FACTOR_SITES or site not in prequantized:
            raise QuantizationError(
                f"{site}: channel shifts can be folded at {', '.join(FACTOR_SITES)} only, with a "
                "prequantized weight whose bias takes them back"
            )
        if t.shape != (inputs[site],) or not np.isfinite(t).all():
            raise QuantizationError(
                f"{site}: channel shifts of shape {t.shape}; they must be {inputs[site]} finite "
                "numbers"
            )
