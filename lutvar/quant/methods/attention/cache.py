# SPDX-License-Identifier: Apache-2.0
"""A key/value cache that quantizes what it keeps.

Source: FPQVAR (arXiv:2505.16335): keys (after their normalisation) and values of a scale step are
used as they are in that step and quantized afterwards. Its code then quantizes the whole cache
again at every step, old entries included, and with 4 bits in groups of 128 values as they lie in
memory.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from lutvar.quant.methods.quantizers.fake import FakeQuantizer
from lutvar.quant.methods.quantizers.spec import QuantizerSpec
from lutvar.quant.var.blocks import KvCache


class CacheSpec(QuantizerSpec):
    """How cached keys and values are quantized, as recipes write it; `group: row` is a token of a
    head.

    Attributes:
        again: the whole cache is quantized again at every scale step, before the step's keys and
            values come in; else those of a step once, when it is over.
        memory: groups do not end with a head's channels but run through the whole cache of a block
            as it lies in memory, axes in this order: "tokens" [batch, head, token, channel], so
            that 128 values are two tokens of a head; "heads" [batch, token, head, channel], two
            heads of a token (the released code's layout with FlashAttention or xFormers).
    """

    again: bool = False
    memory: Literal["tokens", "heads"] | None = None


class QuantizedCache(KvCache):
    """Keeps quantized keys and values. With `values` false only the keys are quantized."""

    def __init__(self, spec: CacheSpec, values: bool = True) -> None:
        super().__init__()
        self.quantizer, self.spec, self.values = FakeQuantizer(spec), spec, values

    def _quantized(self, x_BHLc: Tensor) -> Tensor:
        if self.spec.memory is None:
            return self.quantizer(x_BHLc)
        heads = self.spec.memory == "heads"
        x = x_BHLc.transpose(1, 2) if heads else x_BHLc
        y = self.quantizer(x.flatten()).view(x.shape)
        return y.transpose(1, 2) if heads else y

    def append(self, k_BHlc: Tensor, v_BHlc: Tensor) -> tuple[Tensor, Tensor]:
        """Add the new scale's keys and values; returns all, the new ones not quantized."""
        if self.spec.again:
            if self.k_BHLc is not None and self.v_BHLc is not None:
                self.k_BHLc = self._quantized(self.k_BHLc)
                self.v_BHLc = self._quantized(self.v_BHLc) if self.values else self.v_BHLc
            return super().append(k_BHlc, v_BHlc)
        new_k = self._quantized(k_BHlc)
        new_v = self._quantized(v_BHlc) if self.values else v_BHlc
        if self.k_BHLc is None or self.v_BHLc is None:
            self.k_BHLc, self.v_BHLc = new_k, new_v
            return k_BHlc, v_BHlc
        used = torch.cat((self.k_BHLc, k_BHlc), 2), torch.cat((self.v_BHLc, v_BHlc), 2)
        self.k_BHLc = torch.cat((self.k_BHLc, new_k), 2)
        self.v_BHLc = torch.cat((self.v_BHLc, new_v), 2)
        return used
