# SPDX-License-Identifier: Apache-2.0
"""AdaLN vectors of a class as the accelerator reads them, with what recipes fold into them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from lutvar.quant.var import Var
from lutvar.quant.var.model import Conditioning
from lutvar.quant.var.sites import FloatLinear, LinearSite, SiteName

from .linear import PrequantizedWeight
from .weights import QuantizationError

#: Vectors of a block and of the head for a class, in the order of `ClassVectors`.
BLOCK_VECTORS = ("scale1", "shift1", "gate1", "scale2", "shift2", "gate2")
HEAD_VECTORS = ("scale", "shift")
#: Sites whose input comes from a norm, whose vectors take channel factors in, or from GELU, whose
#: results meet vectors of their own (contract, section 10).
FACTOR_SITES: tuple[SiteName, ...] = ("qkv", "fc1", "fc2", "head")

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


#: Classes that are computed together, and outputs whose weights the processor's cache holds.
_TOGETHER, _OUTPUTS = 256, 128


class _RowByRow:
    """A linear that sums each row as it would alone, over few weights at a time."""

    def __call__(
        self, site: LinearSite, x_BLC: Tensor, weight_OI: Tensor, bias_O: Tensor | None
    ) -> Tensor:
        result = x_BLC.new_empty(*x_BLC.shape[:-1], len(weight_OI))
        for first in range(0, len(weight_OI), _OUTPUTS):
            part = slice(first, first + _OUTPUTS)
            weight, bias = weight_OI[part], None if bias_O is None else bias_O[part]
            for row in range(len(x_BLC)):
                result[row : row + 1, ..., part] = F.linear(x_BLC[row : row + 1], weight, bias)
        return result


class VectorSource:
    """Computes class vectors from the float model."""

    def __init__(self, var: Var, factors: Factors, shifts: Shifts) -> None:
        self.var, self.factors, self.shifts = var, factors, shifts

    def __call__(self, label: int) -> ClassVectors:
        return next(self.many([label]))

    @torch.no_grad()
    def many(self, labels: Sequence[int]) -> Iterator[ClassVectors]:
        """The vectors of many classes; those of one do not depend on the others.

        One by one, each class reads all weights of AdaLN from memory: gigabytes for a large model.
        """
        holder = self.var.backends
        usual = type(holder.other) is FloatLinear
        together = _TOGETHER if usual else 1
        for first in range(0, len(labels), together):
            part = list(labels[first : first + together])
            plain = holder.other
            if usual:
                holder.other = _RowByRow()
            threads = torch.get_num_threads()
            torch.set_num_threads(1)  # to share so little work costs more than it saves
            try:
                cond = self.var.condition(torch.tensor(part, device=self.var.lvl_1L.device))
            finally:
                holder.other = plain
                torch.set_num_threads(threads)
            for row in range(len(part)):
                yield self._of(cond, row)

    def _of(self, cond: Conditioning, row: int) -> ClassVectors:
        depth = self.var.config.depth
        blocks = []
        for i, mod in enumerate(cond.blocks):
            scale1, shift1, gate1, scale2, shift2, gate2 = (
                v[row : row + 1]
                for v in (
                    mod.scale_attn, mod.shift_attn, mod.gate_attn,
                    mod.scale_ffn, mod.shift_ffn, mod.gate_ffn,
                )
            )  # fmt: skip
            first = self._fold(LinearSite(i, "qkv"), scale1, shift1)
            second = self._fold(LinearSite(i, "fc1"), scale2, shift2)
            blocks.append([*first, gate1, *second, gate2])
        head = self._fold(
            LinearSite(depth, "head"),
            cond.head_scale_B1C[row : row + 1],
            cond.head_shift_B1C[row : row + 1],
        )
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


def _half(v: Tensor, what: str = "an AdaLN vector") -> Half:
    """FP16 [C], rounded once; refuses what FP16 cannot hold."""
    values = v.detach().cpu().double().numpy().reshape(-1)
    if not (np.abs(values) <= 65504).all():
        raise QuantizationError(
            f"{what} reaches {np.abs(values).max():g}; FP16 ends at 65504 "
            "(smaller channel factors help)"
        )
    return values.astype(np.float16)


def hidden_vectors(vectors: Mapping[LinearSite, NDArray[np.float32]], what: str) -> None:
    """Round the vectors of fc2, factors or shifts, to FP16 in place: GELU's results meet these.

    Raises QuantizationError for what FP16 cannot hold.
    """
    assert isinstance(vectors, dict)
    for site in [site for site in vectors if site.name == "fc2"]:
        half = _half(torch.from_numpy(vectors[site]), f"{site}: a channel {what}")
        vectors[site] = half.astype(np.float32)


def check_factors(factors: Factors, inputs: Mapping[LinearSite, int]) -> None:
    """Raise QuantizationError for factors that nothing takes in; `inputs`: site -> I."""
    for site, s in factors.items():
        if site not in inputs or site.name not in FACTOR_SITES:
            raise QuantizationError(
                f"{site}: channel factors can be folded at {', '.join(FACTOR_SITES)} only, "
                "whose inputs come from a norm or from GELU"
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
    """Raise QuantizationError for shifts that nothing or no bias takes in; `inputs`: site -> I."""
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
