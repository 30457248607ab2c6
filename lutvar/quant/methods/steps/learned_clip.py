# SPDX-License-Identifier: Apache-2.0
"""A clip factor for every weight group, found by search.

Sources: the clipping search of AWQ (arXiv:2306.00978, section 4 and its code) and the learnable
weight clipping of OmniQuant (arXiv:2308.13137, equation 2), for any grid. Factors above 1 leave the
top of the grid unused: on E2M1 a factor of 1.5 maps the maximum to 4, where the grid is finer
(arXiv:2512.02010). Group scales are stored in any case, so this costs nothing at run time.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor
from typing_extensions import Self

from lutvar.quant.methods.calibration.moments import Moments, Weighting, layer_moments
from lutvar.quant.methods.layers.layer import Block, Layer
from lutvar.quant.methods.quantizers.fake import FakeQuantizer, Scales
from lutvar.quant.methods.quantizers.spec import ScaleType, Sharing

from .base import StepBase, register_step


@register_step("learned-clip")
class LearnedClip(StepBase):
    """Picks the factor of each group's extreme from a grid.

    Attributes:
        objective: "weight" for the squared error of the weight, "output" for that of the layer's
            output. The latter goes group by group, each seeing the others as they are.
        low, high, count: the factors tried; 1 is always among them.
        passes: rounds over the groups, for "output".
        weighting: whether tokens or scale steps count the same, for "output".
    """

    objective: Literal["weight", "output"] = "output"
    low: float = Field(default=0.7, gt=0, le=1)
    high: float = Field(default=1.0, ge=1, le=4)
    count: int = Field(default=25, ge=1)
    passes: int = Field(default=2, ge=1)
    weighting: Weighting = "token"

    @model_validator(mode="after")
    def _something_to_try(self) -> Self:
        if self.low == self.high:
            raise ValueError("low and high are both 1: there is no factor to try")
        return self

    @property
    def needs_data(self) -> bool:
        """Whether calibration samples are needed: the objective `output` looks at inputs."""
        return self.objective == "output"

    @property
    def factors(self) -> list[float]:
        """What is tried, 1 first so that it wins ties."""
        grid = torch.linspace(self.low, self.high, self.count, dtype=torch.float64).tolist()
        return [1.0, *(f for f in grid if f != 1.0)]

    @torch.no_grad()
    def apply(self, block: Block) -> None:
        for layer in self.layers_in(block):
            if layer.weight is None:
                continue
            quantizer, start = layer.grid()
            if quantizer.spec.scale == ScaleType.E4M3:
                raise ValueError(
                    f"{self.step}: {layer.site}: e4m3 scales share one for the whole tensor; "
                    "clip factors need scale: fp32, fp16 or pow2"
                )
            best = _by_weight(layer.weight_OI, quantizer, self.factors)
            if self.objective == "output":
                moments = layer_moments(block, layer, self.step, self.weighting)
                best = self._by_output(layer, moments, start, best)
            before = quantizer.apply(layer.weight_OI, start)
            layer.weight_scales = best
            gain = _square(layer.nearest() - layer.weight_OI) / _square(before - layer.weight_OI)
            layer.notes.append(f"{self.step}: weight error times {gain:.3f}")

    def _by_output(self, layer: Layer, moments: Moments, start: Scales, scales: Scales) -> Scales:
        """Coordinate descent over groups on the layer's output error, from the better of two."""
        weight_OI, (quantizer, _) = layer.weight_OI, layer.grid()
        plain_OI, rounded_OI = (quantizer.apply(weight_OI, s) for s in (start, scales))
        if moments.loss(plain_OI, weight_OI) <= moments.loss(rounded_OI, weight_OI):
            scales, rounded_OI = start, plain_OI
        if quantizer.spec.group == Sharing.TENSOR:
            return scales  # one scale for all rows: the search by weight stands
        size = quantizer.spec.group if isinstance(quantizer.spec.group, int) else weight_OI.shape[1]
        best_scales = [None if s is None else s.clone() for s in scales]
        rows = FakeQuantizer(quantizer.spec.model_copy(update={"group": Sharing.ROW}))
        for _ in range(self.passes):
            for group in range(weight_OI.shape[1] // size):
                part = slice(group * size, (group + 1) * size)
                own_II = moments.quantized_II[part, part]
                now_OI, exact_OI = rounded_OI[:, part], weight_OI[:, part]
                pull_OI = rounded_OI @ moments.quantized_II[:, part]
                pull_OI -= weight_OI @ moments.mixed_II.mT[:, part]
                min_gain_O = torch.zeros(len(weight_OI), dtype=torch.float32)
                new_OI = now_OI.clone()
                for factor in self.factors:
                    tried = rows.scales(exact_OI, factor)
                    candidate_OI = rows.apply(exact_OI, tried)
                    change_OI = candidate_OI - now_OI
                    gain_O = ((change_OI @ own_II + 2 * pull_OI) * change_OI).sum(1)
                    better_O = gain_O < min_gain_O
                    min_gain_O = torch.where(better_O, gain_O, min_gain_O)
                    new_OI = torch.where(better_O.unsqueeze(1), candidate_OI, new_OI)
                    for best, value in zip(best_scales, tried, strict=True):
                        if best is not None and value is not None:
                            best[better_O, group] = value[better_O, 0]
                rounded_OI[:, part] = new_OI
        return Scales(*best_scales)  # type: ignore[arg-type]


def _by_weight(weight_OI: Tensor, quantizer: FakeQuantizer, factors: list[float]) -> Scales:
    """The factor of each block with the least squared error of the weight."""
    best: list[Tensor | None] = []
    min_error = torch.tensor(torch.inf, dtype=torch.float32)
    for factor in factors:
        scales = quantizer.scales(weight_OI, factor)
        error = quantizer.blocks(quantizer.apply(weight_OI, scales) - weight_OI)
        square = error.square().sum(-1, keepdim=True)
        if not best:
            best, min_error = list(scales), square
            continue
        better = square < min_error
        min_error = torch.where(better, square, min_error)
        pairs = zip(scales, best, strict=True)
        best = [None if n is None or o is None else torch.where(better, n, o) for n, o in pairs]
    return Scales(*best)  # type: ignore[arg-type]


def _square(x: Tensor) -> float:
    return float(x.double().square().sum()) or 1e-30
