# SPDX-License-Identifier: Apache-2.0
"""Attention with the means of keys and queries taken off before they are quantized.

Source: SageAttention2 (arXiv:2411.10958): the mean key is subtracted from all keys, which changes
all scores of a query by the same amount and so nothing after the softmax; the mean query of each
block of queries is subtracted too, and its product with the keys added back in float. Queries and
keys are then INT4, probabilities (with the row maximum as the scale, as there) and values (a scale
for each channel) 8-bit floats or integers.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from lutvar.quant.methods.quantizers.spec import QuantizerSpec, Sharing

from .plain import PlainAttention, PlainSettings
from .registry import register_attention


class SageSettings(PlainSettings):
    """Quantizers of the operands; the one of v works along the tokens of a channel.

    Attributes:
        q, k: default INT4 with a scale for each token and head.
        v: default E4M3 with a scale for each channel.
        probabilities: default E4M3 with the row maximum.
        smooth_k, smooth_q: whether the means are taken off.
        block: queries that share a mean.
    """

    kind: Literal["sage"] = "sage"
    q: QuantizerSpec | None = QuantizerSpec(format="INT4", group=Sharing.ROW)
    k: QuantizerSpec | None = QuantizerSpec(format="INT4", group=Sharing.ROW)
    v: QuantizerSpec | None = QuantizerSpec(format="E4M3", group=Sharing.ROW)
    probabilities: QuantizerSpec | None = QuantizerSpec(format="E4M3", group=Sharing.ROW)
    smooth_k: bool = True
    smooth_q: bool = True
    block: int = Field(default=128, ge=1)


@register_attention("sage")
class SageAttention(PlainAttention):
    """The mean key is that of all cached and new tokens, so it changes as they grow."""

    settings: SageSettings
    settings_type = SageSettings

    def scores(self, block: int, q_BHlc: Tensor, k_BHLc: Tensor, scale: float) -> Tensor:
        """Scores up to a constant for each query."""
        if self.settings.smooth_k:
            k_BHLc = k_BHLc - k_BHLc.mean(2, keepdim=True)
        quantized_k = self._quantized("k", k_BHLc)
        if not self.settings.smooth_q:
            return self._quantized("q", q_BHlc) @ quantized_k.mT * scale
        mean_BHlc = self._block_mean(q_BHlc)
        rest = self._quantized("q", q_BHlc - mean_BHlc) @ quantized_k.mT
        return (rest + mean_BHlc @ k_BHLc.mT) * scale

    def _block_mean(self, q_BHlc: Tensor) -> Tensor:
        """Mean of each block of queries, repeated for its queries."""
        length, size = q_BHlc.shape[2], self.settings.block
        parts = [part.mean(2, keepdim=True).expand_as(part) for part in q_BHlc.split(size, 2)]
        return torch.cat(parts, 2) if length > size else parts[0]

    def product(self, block: int, p_BHlL: Tensor, v_BHLc: Tensor) -> Tensor:
        """Quantized probabilities times values quantized channel by channel."""
        v_BHLc = self._quantized("v", v_BHLc.mT.contiguous()).mT
        return self._quantized("probabilities", p_BHlL) @ v_BHLc
