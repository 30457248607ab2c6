# SPDX-License-Identifier: Apache-2.0
"""Where the four block linears are computed: one replaceable backend for the whole model.

Each transformer block has four matrix products (qkv, proj, fc1, fc2). They carry
nearly all multiplications of the model and are what the accelerator runs. The
model calls one backend for all of them, so quantization, calibration, a golden
model or a device driver replaces that one object and nothing else.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, Protocol

from torch import Tensor
from torch.nn import functional as F

SiteName = Literal["qkv", "proj", "fc1", "fc2", "head"]

#: The block linears in the order in which a block runs them.
SITE_NAMES: tuple[SiteName, ...] = ("qkv", "proj", "fc1", "fc2")


class LinearSite(NamedTuple):
    """One block linear: the block's index from 0 and the name of the linear in it.

    The model's last linear, "head", has the number of blocks as its index. It does not go through
    a backend.
    """

    block: int
    name: SiteName

    def __str__(self) -> str:
        return "head" if self.name == "head" else f"block{self.block}.{self.name}"


class LinearBackend(Protocol):
    """Computes y = x W^T + b for one site.

    Args:
        site: which linear.
        x_BLC: input, [batch, tokens, I]. Batch is twice the image count under guidance.
        weight_OI: the model's own weight, [O, I].
        bias_O: [O], or None. For "qkv" it is (q bias, zeros, v bias).

    Returns:
        [batch, tokens, O], same dtype as x_BLC.
    """

    def __call__(
        self, site: LinearSite, x_BLC: Tensor, weight_OI: Tensor, bias_O: Tensor | None
    ) -> Tensor: ...


class FloatLinear:
    """The reference backend: torch's own linear in the tensors' dtype."""

    def __call__(
        self, site: LinearSite, x_BLC: Tensor, weight_OI: Tensor, bias_O: Tensor | None
    ) -> Tensor:
        return F.linear(x_BLC, weight_OI, bias_O)


class BackendHolder:
    """The one mutable slot all blocks of a model read their backend from."""

    def __init__(self, backend: LinearBackend | None = None) -> None:
        self.backend: LinearBackend = backend if backend is not None else FloatLinear()

    def __call__(
        self, site: LinearSite, x_BLC: Tensor, weight_OI: Tensor, bias_O: Tensor | None
    ) -> Tensor:
        return self.backend(site, x_BLC, weight_OI, bias_O)
