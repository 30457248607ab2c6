# SPDX-License-Identifier: Apache-2.0
"""The transformer block of VAR: attention and FFN, each inside an adaptive layer norm.

Parameter names follow the released checkpoints, so these load by key. The
matrix products go through the backends of `sites`; everything else is plain
torch. Keys and values of earlier scales live in a `KvCache` owned by the caller,
not in the module, so two generations can run on one model without touching each
other.

Source: VAR (arXiv:2404.02905), section 3.2 and its released checkpoints; adaptive layer norm
after DiT (arXiv:2212.09748), section 3.2.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .config import VarConfig
from .sites import AttentionOperands, BackendHolder, LinearSite

#: Upper bound of the logarithm of the learned attention scale.
LOG_SCALE_MAX = math.log(100.0)


class KvCache:
    """Keys and values of the scales done so far, for one block."""

    def __init__(self) -> None:
        self.k_BHLc: Tensor | None = None
        self.v_BHLc: Tensor | None = None

    def append(self, k_BHlc: Tensor, v_BHlc: Tensor) -> tuple[Tensor, Tensor]:
        """Add the new scale's keys and values; returns all of them, [B, H, L so far, c]."""
        if self.k_BHLc is None or self.v_BHLc is None:
            self.k_BHLc, self.v_BHLc = k_BHlc, v_BHlc
        else:
            self.k_BHLc = torch.cat((self.k_BHLc, k_BHlc), dim=2)
            self.v_BHLc = torch.cat((self.v_BHLc, v_BHlc), dim=2)
        return self.k_BHLc, self.v_BHLc


class Modulation(NamedTuple):
    """The six AdaLN vectors of one block, each [B, 1, C], in the checkpoint's order."""

    gate_attn: Tensor
    gate_ffn: Tensor
    scale_attn: Tensor
    scale_ffn: Tensor
    shift_attn: Tensor
    shift_ffn: Tensor


class DropPath(nn.Module):
    """Stochastic depth: in training, a sample's branch is dropped with probability `rate`."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x_BLC: Tensor) -> Tensor:
        if not self.training or self.rate == 0.0:
            return x_BLC
        keep = 1.0 - self.rate
        mask_B11 = x_BLC.new_empty(x_BLC.shape[0], 1, 1).bernoulli_(keep).div_(keep)
        return x_BLC * mask_B11


class SelfAttention(nn.Module):
    """Multi-head attention with a fused qkv product and, usually, unit-length q and k."""

    zero_k_bias: Tensor

    def __init__(self, config: VarConfig, block: int, linears: BackendHolder) -> None:
        super().__init__()
        width = config.width
        self.block = block
        self.heads, self.l2_norm = config.heads, config.attn_l2_norm
        self.site_qkv, self.site_proj = (
            LinearSite(block, "qkv"),
            LinearSite(block, "proj"),
        )
        self.linears = linears
        if self.l2_norm:
            start = torch.full((1, self.heads, 1, 1), math.log(4.0))
            self.scale_mul_1H11 = nn.Parameter(start)
        # Without the norm the released code softens the usual 1/sqrt(c) by four.
        self.softmax_scale = 1.0 if self.l2_norm else 0.25 / math.sqrt(config.head_dim)
        self.mat_qkv = nn.Linear(width, 3 * width, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(width))
        self.v_bias = nn.Parameter(torch.zeros(width))
        self.register_buffer("zero_k_bias", torch.zeros(width))
        self.proj = nn.Linear(width, width)
        self.drop = nn.Dropout(config.drop_rate)

    def qkv_bias(self) -> Tensor:
        """[3C]: query bias, zeros (a key bias would cancel in the softmax), value bias."""
        return torch.cat((self.q_bias, self.zero_k_bias, self.v_bias))

    def forward(
        self,
        x_BLC: Tensor,
        mask_11LL: Tensor | None = None,
        cache: KvCache | None = None,
    ) -> Tensor:
        """Attend over x_BLC, and over the cached scales when a cache is given."""
        B, L, C = x_BLC.shape
        qkv_BLO = self.linears(self.site_qkv, x_BLC, self.mat_qkv.weight, self.qkv_bias())
        q, k, v = qkv_BLO.view(B, L, 3, self.heads, C // self.heads).permute(2, 0, 3, 1, 4).unbind()
        if self.l2_norm:
            q = F.normalize(q, dim=-1) * self.scale_mul_1H11.clamp_max(LOG_SCALE_MAX).exp()
            k = F.normalize(k, dim=-1)
        if cache is not None:
            k, v = cache.append(k, v)
        y_BHLc = self.linears.attention(
            self.block, AttentionOperands(q, k, v, mask_11LL, self.softmax_scale)
        )
        y_BLC = y_BHLc.transpose(1, 2).reshape(B, L, C)
        return self.drop(self.linears(self.site_proj, y_BLC, self.proj.weight, self.proj.bias))


class FeedForward(nn.Module):
    """fc1, tanh-GELU, fc2."""

    def __init__(self, config: VarConfig, block: int, linears: BackendHolder) -> None:
        super().__init__()
        self.site_fc1, self.site_fc2 = (
            LinearSite(block, "fc1"),
            LinearSite(block, "fc2"),
        )
        self.linears = linears
        self.fc1 = nn.Linear(config.width, config.hidden)
        self.fc2 = nn.Linear(config.hidden, config.width)
        self.drop = nn.Dropout(config.drop_rate)

    def forward(self, x_BLC: Tensor) -> Tensor:
        h = self.linears(self.site_fc1, x_BLC, self.fc1.weight, self.fc1.bias)
        h = F.gelu(h, approximate="tanh")
        return self.drop(self.linears(self.site_fc2, h, self.fc2.weight, self.fc2.bias))


class VarBlock(nn.Module):
    """x += gate * Attn(LN(x)(1+scale)+shift), then the same with the FFN."""

    def __init__(
        self, config: VarConfig, block: int, drop_path: float, linears: BackendHolder
    ) -> None:
        super().__init__()
        self.width, self.eps = config.width, config.norm_eps
        self.attn = SelfAttention(config, block, linears)
        self.ffn = FeedForward(config, block, linears)
        self.drop_path = DropPath(drop_path)
        self.shared, self.linears = config.shared_adaln, linears
        self.site_ada = LinearSite(block, "ada_lin")
        if self.shared:
            offsets = torch.randn(1, 1, 6, config.width) / math.sqrt(config.width)
            self.ada_gss = nn.Parameter(offsets)
        else:
            self.ada_lin = nn.Sequential(nn.SiLU(), nn.Linear(config.width, 6 * config.width))

    def modulation(self, cond_BD: Tensor, shared_B16C: Tensor | None) -> Modulation:
        """The block's AdaLN vectors. They depend on the class only, not on scale or tokens."""
        if shared_B16C is not None:
            table_B16C = self.ada_gss + shared_B16C
        else:
            table_BO = self.linears.linear(self.site_ada, self.ada_lin[0](cond_BD), self.ada_lin[1])
            table_B16C = table_BO.view(-1, 1, 6, self.width)
        return Modulation(*table_B16C.unbind(2))

    def forward(
        self,
        x_BLC: Tensor,
        mod: Modulation,
        mask_11LL: Tensor | None = None,
        cache: KvCache | None = None,
    ) -> Tensor:
        h = plain_layer_norm(x_BLC, self.eps) * (mod.scale_attn + 1) + mod.shift_attn
        x_BLC = x_BLC + self.drop_path(self.attn(h, mask_11LL, cache) * mod.gate_attn)
        h = plain_layer_norm(x_BLC, self.eps) * (mod.scale_ffn + 1) + mod.shift_ffn
        return x_BLC + self.drop_path(self.ffn(h) * mod.gate_ffn)

    def iter_linears(self) -> Iterator[tuple[LinearSite, Tensor, Tensor]]:
        """(site, weight_OI, bias_O) of the four linears in the order they run."""
        attn, ffn = self.attn, self.ffn
        yield attn.site_qkv, attn.mat_qkv.weight, attn.qkv_bias()
        yield attn.site_proj, attn.proj.weight, attn.proj.bias
        yield ffn.site_fc1, ffn.fc1.weight, ffn.fc1.bias
        yield ffn.site_fc2, ffn.fc2.weight, ffn.fc2.bias


class HeadNorm(nn.Module):
    """The adaptive layer norm before the classifier head (order: scale, shift)."""

    def __init__(self, config: VarConfig, linears: BackendHolder) -> None:
        super().__init__()
        self.width, self.eps, self.linears = config.width, config.norm_eps, linears
        self.site = LinearSite(config.depth, "head_ada")
        self.ada_lin = nn.Sequential(nn.SiLU(), nn.Linear(config.width, 2 * config.width))

    def modulation(self, cond_BD: Tensor) -> tuple[Tensor, Tensor]:
        """(scale, shift), each [B, 1, C]."""
        table_BO = self.linears.linear(self.site, self.ada_lin[0](cond_BD), self.ada_lin[1])
        scale_B1C, shift_B1C = table_BO.view(-1, 1, 2, self.width).unbind(2)
        return scale_B1C, shift_B1C

    def forward(self, x_BLC: Tensor, scale_B1C: Tensor, shift_B1C: Tensor) -> Tensor:
        return plain_layer_norm(x_BLC, self.eps) * (scale_B1C + 1) + shift_B1C


def plain_layer_norm(x_BLC: Tensor, eps: float) -> Tensor:
    """Layer norm over channels without learned scale or shift."""
    return F.layer_norm(x_BLC, (x_BLC.shape[-1],), eps=eps)
