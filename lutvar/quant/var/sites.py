# SPDX-License-Identifier: Apache-2.0
"""Where the matrix products are computed: replaceable backends for the whole model.

Each transformer block has four linears (qkv, proj, fc1, fc2). They carry nearly
all multiplications of the model and are what the accelerator runs. The model
calls one backend for all of them, so quantization, calibration, a golden model
or a device driver replaces that one object and nothing else. The other linears
(AdaLN, head, token embedding) and the two products of attention have backends of
their own, because few methods touch them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, NamedTuple, Protocol

from torch import Tensor, nn
from torch.nn import functional as F

from lutvar.contract.quant_preset import SITE_NAMES as SITE_NAMES
from lutvar.contract.quant_preset import BlockSite

SiteName = Literal[BlockSite, "head", "ada_lin", "head_ada", "word_embed", "shared_ada"]

#: Linears that are there once in the model; their site has the number of blocks as its index.
SINGLE_SITES: tuple[SiteName, ...] = ("head", "head_ada", "word_embed", "shared_ada")


class LinearSite(NamedTuple):
    """One linear: the block's index from 0 and the name of the linear in it.

    "ada_lin" is the AdaLN projection of a block. The linears of `SINGLE_SITES` have the number of
    blocks as their index: "head" (the last one), "head_ada" (AdaLN before it), "word_embed" (token
    embedding) and, in models that have it, "shared_ada".
    """

    block: int
    name: SiteName

    def __str__(self) -> str:
        return self.name if self.name in SINGLE_SITES else f"block{self.block}.{self.name}"


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


class AttentionOperands(NamedTuple):
    """What the two products of attention work on: l new tokens attend to L tokens.

    Attributes:
        q_BHlc, k_BHLc, v_BHLc: queries, keys, values; cached tokens come first.
        mask_11LL: added to the scores, or None.
        scale: factor of the scores.
    """

    q_BHlc: Tensor
    k_BHLc: Tensor
    v_BHLc: Tensor
    mask_11LL: Tensor | None
    scale: float


class AttentionBackend(Protocol):
    """Computes softmax(scale q k^T + mask) v of one block, [B, H, l, c]."""

    def __call__(self, block: int, x: AttentionOperands) -> Tensor: ...


class FloatAttention:
    """The reference backend: torch's own attention."""

    def __call__(self, block: int, x: AttentionOperands) -> Tensor:
        return F.scaled_dot_product_attention(
            x.q_BHlc, x.k_BHLc, x.v_BHLc, attn_mask=x.mask_11LL, scale=x.scale
        )


class BackendHolder:
    """The one mutable place all parts of a model read their backends from.

    Attributes:
        backend: the four block linears.
        other: all other linears.
        attention: the two products of attention.
    """

    def __init__(self, backend: LinearBackend | None = None) -> None:
        self.backend: LinearBackend = backend if backend is not None else FloatLinear()
        self.other: LinearBackend = FloatLinear()
        self.attention: AttentionBackend = FloatAttention()

    def __call__(
        self, site: LinearSite, x_BLC: Tensor, weight_OI: Tensor, bias_O: Tensor | None
    ) -> Tensor:
        backend = self.backend if site.name in SITE_NAMES else self.other
        return backend(site, x_BLC, weight_OI, bias_O)

    @contextmanager
    def replaced(
        self, linear: LinearBackend, attention: AttentionBackend | None = None
    ) -> Iterator[None]:
        """All linears, and attention where it is given, through others for the `with` block."""
        before = self.backend, self.other, self.attention
        self.backend = self.other = linear
        self.attention = self.attention if attention is None else attention
        try:
            yield
        finally:
            self.backend, self.other, self.attention = before

    def linear(self, site: LinearSite, x: Tensor, module: nn.Module) -> Tensor:
        """Run a torch linear through the backend of its site."""
        assert isinstance(module, nn.Linear)
        return self(site, x, module.weight, module.bias)
