# SPDX-License-Identifier: Apache-2.0
"""A key/value cache with scales by channel and more bits for the channels of keys that need them.

Source: VidKV (arXiv:2503.16257): keys get few bits for wide channels and fewer, after a Fourier
transform over tokens, for the others; values get scales by channel instead of by token. A group is
one channel of one head over the tokens of one scale step. What VidKV keeps better for tokens that
the prompt attends to has no counterpart here.
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from lutvar.quant.var.blocks import KvCache

#: Bits of a code; 1.58 stands for three levels.
Bits = Annotated[float, Field(ge=1, le=8)]


class ChannelCacheSpec(BaseModel):
    """How cached keys and values are quantized by channel, as recipes write it.

    Attributes:
        wide: bits of the channels of keys with the largest ranges.
        narrow: bits of the other channels of keys.
        share: of the channels of a head that are wide.
        fourier: narrow channels are quantized in the frequency domain of a scale step's tokens.
        values: bits of values.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    wide: Bits = 2
    narrow: Bits = 1
    share: float = Field(default=0.5, ge=0, le=1)
    fourier: bool = True
    values: Bits = 1.58

    @property
    def mean_bits(self) -> tuple[float, float]:
        """Bits of a key and of a value, scales left out."""
        return self.share * self.wide + (1 - self.share) * self.narrow, self.values


class ChannelCache(KvCache):
    """Keeps quantized keys and values; those of a scale step are quantized when it is over."""

    def __init__(self, spec: ChannelCacheSpec, values: bool = True) -> None:
        super().__init__()
        self.spec, self.values = spec, values

    def append(self, k_BHlc: Tensor, v_BHlc: Tensor) -> tuple[Tensor, Tensor]:
        """Add the new scale's keys and values; returns all, the new ones not quantized."""
        used = k_BHlc, v_BHlc
        if self.k_BHLc is not None and self.v_BHLc is not None:
            used = torch.cat((self.k_BHLc, k_BHlc), 2), torch.cat((self.v_BHLc, v_BHlc), 2)
        kept_v = by_channel(v_BHlc, self.spec.values) if self.values else v_BHlc
        super().append(quantized_keys(k_BHlc, self.spec), kept_v)
        return used


def by_channel(x_BHlc: Tensor, bits: float) -> Tensor:
    """Each channel on round(2**bits) even levels between its extremes over tokens."""
    levels = round(2**bits)
    low, high = torch.aminmax(x_BHlc, dim=2, keepdim=True)
    scale = (high - low) / (levels - 1)
    scale = torch.where(scale == 0, 1.0, scale)
    return torch.round((x_BHlc - low) / scale) * scale + low


def quantized_keys(k_BHlc: Tensor, spec: ChannelCacheSpec) -> Tensor:
    """Keys of a scale step: the widest channels of each head with more bits than the others."""
    wide, channels = by_channel(k_BHlc, spec.wide), k_BHlc.shape[-1]
    if spec.fourier:
        coefficients = torch.view_as_real(torch.fft.rfft(k_BHlc, dim=2, norm="ortho"))
        parts = [by_channel(part, spec.narrow) for part in coefficients.unbind(-1)]
        both = torch.complex(*parts)
        narrow = torch.fft.irfft(both, n=k_BHlc.shape[2], dim=2, norm="ortho")
    else:
        narrow = by_channel(k_BHlc, spec.narrow)
    low, high = torch.aminmax(k_BHlc, dim=2, keepdim=True)
    count = round(spec.share * channels)
    rank = (high - low).argsort(dim=-1, descending=True, stable=True).argsort(-1)
    return torch.where(rank < count, wide, narrow)
