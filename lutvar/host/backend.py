# SPDX-License-Identifier: Apache-2.0
"""The VAR model's linear layers on an accelerator: drop-in backends for `Var.linear_backend`."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lutvar.quant.var.sites import LinearSite

from .driver import Accelerator
from .errors import BadInput
from .packed import PackedLinear


def rows_of(x_BLC: Tensor) -> NDArray[np.float32]:
    """[B, L, C] to float32 rows [B * L, C] on the CPU."""
    x: NDArray[np.float32] = x_BLC.detach().reshape(-1, x_BLC.shape[-1]).float().cpu().numpy()
    return x


def from_rows(y: NDArray[np.float32], like_BLC: Tensor) -> Tensor:
    """Rows [B * L, O] back to [B, L, O], with the type and device of the layer's input."""
    return torch.from_numpy(y).reshape(*like_BLC.shape[:-1], -1).to(like_BLC)


class AcceleratorBackend:
    """Runs every block linear on a device; the model's own weights and biases are not used.

    Args:
        device: opened.
        packed: layers by the name of their site (``block0.qkv``), packed for the device.
    """

    def __init__(self, device: Accelerator, packed: Mapping[str, PackedLinear]) -> None:
        self.device, self.packed = device, packed

    def layer(self, site: LinearSite, weight_OI: Tensor) -> PackedLinear:
        """The packed layer of a site. Raises BadInput when it does not have the model's shape."""
        layer = self.packed[str(site)]
        shape = layer.args.out_features, layer.args.in_features
        if shape != tuple(weight_OI.shape):
            raise BadInput(
                f"{site}: packed weights are {shape}, the model's are {tuple(weight_OI.shape)}; "
                "pack the model that is run"
            )
        return layer

    def __call__(
        self, site: LinearSite, x_BLC: Tensor, weight_OI: Tensor, bias_O: Tensor | None
    ) -> Tensor:
        layer = self.layer(site, weight_OI)
        return from_rows(self.device.run(layer, rows_of(x_BLC)), x_BLC)
