# SPDX-License-Identifier: Apache-2.0
"""The multi-scale residual quantizer: latent map <-> one token map per scale.

Coarse to fine, each scale codes what the coarser ones left: the rest is averaged
down to p x p, every cell takes its nearest codebook entry, the entries go back to
full size (bicubic), through a small convolution phi, and are taken off the rest.

Source: VAR (arXiv:2404.02905), section 3.2, algorithms 1 and 2.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .config import VqvaeConfig

#: With 4 phis and 10 scales, scales 2 and 7 lie exactly between two ticks and
#: rounding noise decided; the released models were trained with this outcome.
_PHI_OF_SCALE_10_4 = (0, 0, 1, 1, 1, 2, 2, 3, 3, 3)


def phi_indices(scales: int, phis: int) -> tuple[int, ...]:
    """Which phi each scale uses: the one whose tick is nearest to scale / (scales - 1).

    Args:
        scales: number of scales, at least 2.
        phis: number of phi convolutions.
    """
    if (scales, phis) == (10, 4):
        return _PHI_OF_SCALE_10_4
    margin = 1 / 3 / phis if phis == 4 else 1 / 2 / phis
    ticks = np.linspace(margin, 1 - margin, phis)
    return tuple(int(np.argmin(np.abs(ticks - i / (scales - 1)))) for i in range(scales))


class Phi(nn.Conv2d):
    """phi(h) = (1 - r) h + r conv3x3(h)."""

    def __init__(self, channels: int, ratio: float) -> None:
        super().__init__(channels, channels, kernel_size=3, padding=1)
        self.ratio = ratio

    def forward(self, h_BZHW: Tensor) -> Tensor:
        return h_BZHW * (1 - self.ratio) + super().forward(h_BZHW) * self.ratio


class _OnePhi(nn.Module):
    """Container for share_quant_resi = 1; only its key name matters."""

    def __init__(self, phi: nn.Module) -> None:
        super().__init__()
        self.qresi = phi


class _SharedPhis(nn.Module):
    """Container for share_quant_resi > 1; only its key name matters."""

    def __init__(self, phis: list[nn.Module]) -> None:
        super().__init__()
        self.qresi_ls = nn.ModuleList(phis)


class QuantizerLosses(NamedTuple):
    """Result of `MultiScaleQuantizer.forward`."""

    f_hat_BZHW: Tensor
    vq_loss: Tensor
    tokens: list[Tensor]


class _Step(NamedTuple):
    """One scale of the coding: the averaged rest, its tokens, and what they add."""

    cells_NZ: Tensor
    tokens_Bl: Tensor
    added_BZHW: Tensor


class MultiScaleQuantizer(nn.Module):
    """Codebook, phi convolutions and the coarse-to-fine coding."""

    ema_vocab_hit_SV: Tensor

    def __init__(self, config: VqvaeConfig) -> None:
        super().__init__()
        self.patch_nums, self.beta = config.patch_nums, config.beta
        self.vocab, self.z_channels = config.vocab, config.z_channels
        scales, shared = len(config.patch_nums), config.share_quant_resi
        count = shared if shared else scales
        phis: list[nn.Module] = [
            Phi(config.z_channels, config.quant_resi) if config.quant_resi > 1e-6 else nn.Identity()
            for _ in range(count)
        ]
        if shared == 0:
            self.quant_resi: nn.Module = nn.ModuleList(phis)
        elif shared == 1:
            self.quant_resi = _OnePhi(phis[0])
        else:
            self.quant_resi = _SharedPhis(phis)
        self._phi_of_scale = phi_indices(scales, count)
        hits = torch.zeros(scales, config.vocab)
        self.register_buffer("ema_vocab_hit_SV", hits)
        self.embedding = nn.Embedding(config.vocab, config.z_channels)

    def phi(self, scale_index: int) -> nn.Module:
        """The phi convolution of one scale."""
        index = self._phi_of_scale[scale_index]
        if isinstance(self.quant_resi, _OnePhi):
            return self.quant_resi.qresi
        if isinstance(self.quant_resi, _SharedPhis):
            return self.quant_resi.qresi_ls[index]
        assert isinstance(self.quant_resi, nn.ModuleList)
        return self.quant_resi[index]

    def nearest(self, rest_NZ: Tensor) -> Tensor:
        """Index of the nearest codebook entry (squared distance) per row, [N]."""
        book_VZ = self.embedding.weight.detach()
        distance_NV = rest_NZ.square().sum(1, keepdim=True) + book_VZ.square().sum(1)
        distance_NV = torch.addmm(distance_NV, rest_NZ, book_VZ.T, alpha=-2)
        return distance_NV.argmin(1)

    def contribution(self, scale_index: int, tokens_Bl: Tensor) -> Tensor:
        """What one scale's tokens add to the latent map, [B, Z, p_last, p_last]."""
        return self.spread(scale_index, self.as_map(scale_index, self.embedding(tokens_Bl)))

    def as_map(self, scale_index: int, cells_BlZ: Tensor) -> Tensor:
        """The cells of a scale as a map, [B, l, Z] to [B, Z, p, p]."""
        side = self.patch_nums[scale_index]
        h = cells_BlZ.transpose(1, 2)
        return h.reshape(cells_BlZ.shape[0], self.z_channels, side, side)

    def spread(self, scale_index: int, h: Tensor) -> Tensor:
        """What a map of one scale, [B, Z, p, p], adds to the latent map, [B, Z, p_last, p_last]."""
        full = self.patch_nums[-1]
        if scale_index != len(self.patch_nums) - 1:
            h = F.interpolate(h, size=(full, full), mode="bicubic")
        return self.phi(scale_index)(h)

    def shrink(self, f_BZHW: Tensor, scale_index: int) -> Tensor:
        """Area average of a latent map to the side of one scale."""
        side = self.patch_nums[scale_index]
        return F.interpolate(f_BZHW, size=(side, side), mode="area")

    def _code_scales(self, f_BZHW: Tensor) -> Iterator[_Step]:
        """Code a latent map scale by scale; the rest to be coded carries no gradient."""
        full = self.patch_nums[-1]
        want = (self.z_channels, full, full)
        if f_BZHW.dim() != 4 or tuple(f_BZHW.shape[1:]) != want:
            raise ValueError(f"latent map of shape {tuple(f_BZHW.shape)}: expected [B, {want}]")
        rest, last = f_BZHW.detach().float(), len(self.patch_nums) - 1
        for i in range(last + 1):
            small = rest if i == last else self.shrink(rest, i)
            cells_NZ = small.permute(0, 2, 3, 1).reshape(-1, self.z_channels)
            tokens_Bl = self.nearest(cells_NZ).view(f_BZHW.shape[0], -1)
            added = self.contribution(i, tokens_Bl)
            yield _Step(cells_NZ, tokens_Bl, added)
            rest = rest - added.detach()

    def forward(self, f_BZHW: Tensor) -> QuantizerLosses:
        """Training pass: straight-through latent map, codebook plus commitment loss, tokens.

        In training mode the buffer `ema_vocab_hit_SV` follows how often each entry is used.
        """
        f = f_BZHW.float()
        target = f.detach()
        f_hat = torch.zeros_like(target)
        loss = f.new_zeros(())
        tokens: list[Tensor] = []
        for i, step in enumerate(self._code_scales(f)):
            if self.training:
                hits_V = step.tokens_Bl.flatten().bincount(minlength=self.vocab).float()
                self.ema_vocab_hit_SV[i].mul_(0.99).add_(hits_V, alpha=0.01)
            f_hat = f_hat + step.added_BZHW
            loss = loss + F.mse_loss(f_hat.detach(), f) * self.beta + F.mse_loss(f_hat, target)
            tokens.append(step.tokens_Bl)
        # Gradients pass the quantizer unchanged.
        straight = (f_hat.detach() - target) + f
        return QuantizerLosses(straight, loss / len(self.patch_nums), tokens)

    @torch.no_grad()
    def encode(self, f_BZHW: Tensor) -> list[Tensor]:
        """Tokens of a latent map: per scale a LongTensor [B, p*p]."""
        return [step.tokens_Bl for step in self._code_scales(f_BZHW)]

    @torch.no_grad()
    def cells(self, f_BZHW: Tensor) -> Tensor:
        """What the codebook is asked to match, of all scales together, [B*L, Z]."""
        return torch.cat([step.cells_NZ for step in self._code_scales(f_BZHW)])

    def decode(self, tokens: list[Tensor]) -> Tensor:
        """Latent map [B, Z, p_last, p_last] of token maps given per scale as [B, p*p]."""
        expected = [p * p for p in self.patch_nums]
        lengths = [int(t.shape[-1]) for t in tokens]
        if lengths != expected:
            raise ValueError(f"token maps of lengths {lengths}: the scales need {expected}")
        f_hat = self.contribution(0, tokens[0])
        for i in range(1, len(tokens)):
            f_hat = f_hat + self.contribution(i, tokens[i])
        return f_hat

    @torch.no_grad()
    def teacher_inputs(self, tokens: list[Tensor]) -> Tensor:
        """Transformer inputs of scales 1.. from true tokens, [B, L - p0*p0, Z] float32."""
        f_hat = self.contribution(0, tokens[0])
        inputs = [self.shrink(f_hat, 1)]
        for i in range(1, len(self.patch_nums) - 1):
            f_hat = f_hat + self.contribution(i, tokens[i])
            inputs.append(self.shrink(f_hat, i + 1))
        return torch.cat([m.flatten(2).transpose(1, 2) for m in inputs], dim=1)
