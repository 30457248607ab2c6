# SPDX-License-Identifier: Apache-2.0
"""One transformer block for all autoregressive generators; what differs is data.

Two branches, attention and MLP, each behind a norm. `BlockShape` says which norm, whether queries
and keys have norms of their own, whether AdaLN modulates the branches, and which activation the MLP
has. Linears and attention go through the backends of `var.sites`, keys and values into the cache of
`var.blocks`, so that everything that quantizes a VAR block finds the same places here.

Sources: RAR (arXiv:2411.00776), PAR (arXiv:2412.15119) and their released code; SwiGLU
(arXiv:2002.05202), RMSNorm (arXiv:1910.07467), rotary positions (arXiv:2104.09864).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lutvar.quant.var.blocks import KvCache
from lutvar.quant.var.sites import AttentionOperands, BackendHolder, LinearSite

LinearEntry = tuple[LinearSite, Tensor, Tensor | None]


@dataclass(frozen=True)
class BlockShape:
    """What a block is made of.

    Attributes:
        width: channels C.
        heads: attention heads, each of C / heads channels.
        hidden: channels between fc1 and fc2.
        norm: "layer" (learned scale and shift) or "rms" (learned scale).
        eps: of every norm.
        bias: whether the linears have one.
        head_norm: layer norm of queries and keys, head by head.
        adaptive: AdaLN: shift, scale and gate of both branches, from a vector for each token.
        gated: SwiGLU, with fc1 [2 hidden, C]: gate, then value. Otherwise GELU, exact.
    """

    width: int
    heads: int
    hidden: int
    norm: Literal["layer", "rms"]
    eps: float
    bias: bool
    head_norm: bool
    adaptive: bool
    gated: bool


class TokenInputs(NamedTuple):
    """What enters the blocks for l positions of B sequences.

    Attributes:
        x_BlC: embeddings.
        cond_BlC: what AdaLN's projections see behind SiLU, or None.
        rotary_lc2: cosine and sine for each pair of a head's channels, [l, c / 2, 2], or None.
    """

    x_BlC: Tensor
    cond_BlC: Tensor | None = None
    rotary_lc2: Tensor | None = None


class RmsNorm(nn.Module):
    """x / root mean square, times a learned scale; no mean is subtracted."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        x32 = x.float()
        return (x32 * torch.rsqrt((x32 * x32).mean(-1, keepdim=True) + self.eps)).to(
            x.dtype
        ) * self.weight


def make_norm(shape: BlockShape) -> nn.Module:
    """The norm before a branch."""
    if shape.norm == "rms":
        return RmsNorm(shape.width, shape.eps)
    return nn.LayerNorm(shape.width, eps=shape.eps)


def rotate(x_BHlc: Tensor, rotary_lc2: Tensor) -> Tensor:
    """Turn neighbouring pairs of channels by each position's angles.

    A pair whose cosine and sine are both 0, as at positions without a place, becomes 0.
    """
    first, second = x_BHlc.unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = rotary_lc2.unbind(-1)
    return torch.stack((first * cos - second * sin, second * cos + first * sin), -1).flatten(-2)


class Attention(nn.Module):
    """Multi-head attention with a fused qkv product; new tokens attend to all cached ones."""

    def __init__(self, shape: BlockShape, block: int, linears: BackendHolder) -> None:
        super().__init__()
        self.block, self.heads, self.linears = block, shape.heads, linears
        self.site_qkv, self.site_proj = LinearSite(block, "qkv"), LinearSite(block, "proj")
        head_dim = shape.width // shape.heads
        self.softmax_scale = head_dim**-0.5
        self.qkv = nn.Linear(shape.width, 3 * shape.width, bias=shape.bias)
        self.proj = nn.Linear(shape.width, shape.width, bias=shape.bias)
        self.q_norm: nn.Module = nn.Identity()
        self.k_norm: nn.Module = nn.Identity()
        if shape.head_norm:
            self.q_norm = nn.LayerNorm(head_dim, eps=shape.eps)
            self.k_norm = nn.LayerNorm(head_dim, eps=shape.eps)

    def forward(
        self,
        x_BlC: Tensor,
        rotary_lc2: Tensor | None,
        mask_11LL: Tensor | None,
        cache: KvCache | None,
    ) -> Tensor:
        B, length, C = x_BlC.shape
        qkv_BlO = self.linears.linear(self.site_qkv, x_BlC, self.qkv)
        q, k, v = (
            qkv_BlO.view(B, length, 3, self.heads, C // self.heads).permute(2, 0, 3, 1, 4).unbind()
        )
        q, k = self.q_norm(q), self.k_norm(k)
        if rotary_lc2 is not None:
            q, k = rotate(q, rotary_lc2), rotate(k, rotary_lc2)
        if cache is not None:
            k, v = cache.append(k, v)
        y_BHlc = self.linears.attention(
            self.block, AttentionOperands(q, k, v, mask_11LL, self.softmax_scale)
        )
        y_BlC = y_BHlc.transpose(1, 2).reshape(B, length, C)
        return self.linears.linear(self.site_proj, y_BlC, self.proj)


class Mlp(nn.Module):
    """fc1, activation, fc2."""

    def __init__(self, shape: BlockShape, block: int, linears: BackendHolder) -> None:
        super().__init__()
        self.gated, self.linears = shape.gated, linears
        self.site_fc1, self.site_fc2 = LinearSite(block, "fc1"), LinearSite(block, "fc2")
        outputs = 2 * shape.hidden if shape.gated else shape.hidden
        self.fc1 = nn.Linear(shape.width, outputs, bias=shape.bias)
        self.fc2 = nn.Linear(shape.hidden, shape.width, bias=shape.bias)

    def forward(self, x_BlC: Tensor) -> Tensor:
        h = self.linears.linear(self.site_fc1, x_BlC, self.fc1)
        if self.gated:
            gate, value = h.chunk(2, -1)
            h = F.silu(gate) * value
        else:
            h = F.gelu(h)
        return self.linears.linear(self.site_fc2, h, self.fc2)


class Block(nn.Module):
    """x += gate * Attention(norm1(x) (1 + scale) + shift), then the same with the MLP."""

    def __init__(self, shape: BlockShape, block: int, linears: BackendHolder) -> None:
        super().__init__()
        self.linears, self.adaptive = linears, shape.adaptive
        self.site_ada = LinearSite(block, "ada_lin")
        self.norm1, self.norm2 = make_norm(shape), make_norm(shape)
        self.attn = Attention(shape, block, linears)
        self.mlp = Mlp(shape, block, linears)
        if shape.adaptive:
            self.ada_lin = nn.Sequential(nn.SiLU(), nn.Linear(shape.width, 6 * shape.width))

    def forward(
        self,
        x_BlC: Tensor,
        inputs: TokenInputs,
        mask_11LL: Tensor | None = None,
        cache: KvCache | None = None,
    ) -> Tensor:
        """The residual stream [B, l, C] behind the block; of `inputs` all but `x_BlC` counts."""
        attend, h_BlC = self.attn, self.norm1(x_BlC)
        if not self.adaptive:
            x_BlC = x_BlC + attend(h_BlC, inputs.rotary_lc2, mask_11LL, cache)
            return x_BlC + self.mlp(self.norm2(x_BlC))
        activation, linear = self.ada_lin
        table_BlO = self.linears.linear(self.site_ada, activation(inputs.cond_BlC), linear)
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = table_BlO.chunk(6, -1)
        h_BlC = h_BlC * (1 + scale_a) + shift_a
        x_BlC = x_BlC + gate_a * attend(h_BlC, inputs.rotary_lc2, mask_11LL, cache)
        h_BlC = self.norm2(x_BlC) * (1 + scale_m) + shift_m
        return x_BlC + gate_m * self.mlp(h_BlC)

    def iter_linears(self) -> Iterator[LinearEntry]:
        """(site, weight_OI, bias_O) of the block's linears in the order they run."""
        if self.adaptive:
            linear = self.ada_lin[1]
            assert isinstance(linear, nn.Linear)
            yield self.site_ada, linear.weight, linear.bias
        attn, mlp = self.attn, self.mlp
        yield attn.site_qkv, attn.qkv.weight, attn.qkv.bias
        yield attn.site_proj, attn.proj.weight, attn.proj.bias
        yield mlp.site_fc1, mlp.fc1.weight, mlp.fc1.bias
        yield mlp.site_fc2, mlp.fc2.weight, mlp.fc2.bias
