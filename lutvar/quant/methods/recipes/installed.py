# SPDX-License-Identifier: Apache-2.0
"""The linear backend of a model in which a recipe's layers are installed."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lutvar.quant.var.sites import LinearSite

if TYPE_CHECKING:
    from .build import QuantizedVar


class Running:
    """The linear backend while a `QuantizedVar` is installed."""

    def __init__(
        self, model: QuantizedVar, hook: Callable[[int], None] | None, null_D: Tensor
    ) -> None:
        self.model, self.hook, self.null_D, self.scale_index = model, hook, null_D, 0
        self.begin_rows = getattr(model.attention, "begin_rows", None)

    def begin_scale(self, scale_index: int) -> None:
        self.scale_index = scale_index
        if self.model.attention is not None:
            self.model.attention.begin_scale(scale_index)
        if self.hook is not None:
            self.hook(scale_index)

    def __call__(
        self, site: LinearSite, x_BLC: Tensor, weight_OI: Tensor, bias_O: Tensor | None
    ) -> Tensor:
        if site.name == "head_ada" and self.begin_rows is not None:
            # AdaLN vectors are computed once for new rows, from their class embedding.
            null_B = (x_BLC == self.null_D).all(-1).flatten()
            half = len(null_B) // 2
            self.begin_rows(
                2 * half == len(null_B) and bool(null_B[half:].all() and not null_B[:half].any())
            )
        layer = self.model.layers.get(site)
        if layer is None:
            return torch.nn.functional.linear(x_BLC, weight_OI, bias_O)
        if x_BLC.dim() == 2:  # AdaLN projections see one vector for each row
            return layer(x_BLC.unsqueeze(1), self.scale_index).squeeze(1)
        return layer(x_BLC, self.scale_index)
