# SPDX-License-Identifier: Apache-2.0
"""Hidden channels made wider on purpose: a model of the same function with harder inputs of fc2.

Large transformers have a few hidden channels whose values are tens of times those of the others
(SmoothQuant, arXiv:2211.10438, section 3; FPQVAR, arXiv:2505.16335). Small models have none, so
methods against them look useless there. This step multiplies some channels behind GELU and divides
the columns of fc2 by the same powers of two, which is exact: whatever follows meets the outliers.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field

from lutvar.contract.names import Seed
from lutvar.quant.methods.layers.layer import Block
from lutvar.quant.methods.layers.operations import scale_channels
from lutvar.quant.var.sites import SiteName

from .base import StepBase, register_step


@register_step("outliers")
class Outliers(StepBase):
    """x c and W / c with c = 1 but for some channels.

    Attributes:
        seed: of the choice of channels and factors, for each block another one.
        share: of the channels that are widened, at least one.
        low, high: exponents of two between which the factors lie, both included.
    """

    reads_data: ClassVar[bool] = False

    sites: tuple[SiteName, ...] | None = ("fc2",)
    seed: Seed = 0
    share: float = Field(default=0.01, gt=0, le=1)
    low: int = Field(default=2, ge=0, le=10)
    high: int = Field(default=6, ge=0, le=10)

    def apply(self, block: Block) -> None:
        for layer in self.layers_in(block):
            inputs = layer.weight_OI.shape[1]
            draw = torch.Generator().manual_seed(self.seed * 1009 + block.index)
            count = max(1, round(self.share * inputs))
            chosen = torch.randperm(inputs, generator=draw)[:count]
            exponents = torch.randint(self.low, self.high + 1, (count,), generator=draw)
            c_I = torch.ones(inputs)
            c_I[chosen] = torch.exp2(exponents.float())
            scale_channels(layer, c_I)
            layer.notes.append(
                f"{self.step}: {count} channels widened up to {int(c_I.max())} times"
            )
