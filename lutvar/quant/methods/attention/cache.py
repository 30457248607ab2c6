# SPDX-License-Identifier: Apache-2.0
"""A key/value cache that quantizes what it keeps.

Source: FPQVAR (arXiv:2505.16335): keys (after their normalisation) and values of a scale step are
used as they are in that step and quantized afterwards.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lutvar.quant.methods.quantizers.fake import FakeQuantizer
from lutvar.quant.var.blocks import KvCache


class QuantizedCache(KvCache):
    """Keeps quantized keys and values; `group: row` of the quantizer is a token of a head.

    With `values` false only the keys are quantized.
    """

    def __init__(self, quantizer: FakeQuantizer, values: bool = True) -> None:
        super().__init__()
        self.quantizer, self.values = quantizer, values

    def append(self, k_BHlc: Tensor, v_BHlc: Tensor) -> tuple[Tensor, Tensor]:
        """Add the new scale's keys and values; returns all, the new ones not quantized."""
        new_k = self.quantizer(k_BHlc)
        new_v = self.quantizer(v_BHlc) if self.values else v_BHlc
        if self.k_BHLc is None or self.v_BHLc is None:
            self.k_BHLc, self.v_BHLc = new_k, new_v
            return k_BHlc, v_BHlc
        used = torch.cat((self.k_BHLc, k_BHlc), 2), torch.cat((self.v_BHLc, v_BHlc), 2)
        self.k_BHLc = torch.cat((self.k_BHLc, new_k), 2)
        self.v_BHLc = torch.cat((self.v_BHLc, new_v), 2)
        return used
