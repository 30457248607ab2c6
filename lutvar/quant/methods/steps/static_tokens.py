# SPDX-License-Identifier: Apache-2.0
"""Static token-wise quantization of inputs: ranges by scale step, with the sink token separate.

Source: PTQ4ARVG (arXiv:2601.21238), static token-wise quantization, and its released code: qkv and
fc1 one range for each scale step, proj and fc2 one for the first token and one for the others,
head and AdaLN one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from lutvar.quant.methods.calibration.network import parts_of
from lutvar.quant.methods.calibration.rows import row_batches, shared_ranges
from lutvar.quant.methods.layers.layer import Block, Layer
from lutvar.quant.methods.quantizers.fake import FakeQuantizer
from lutvar.quant.methods.quantizers.percentiles import (
    ZeroPoints,
    average_range,
    percentile_range,
)
from lutvar.quant.methods.quantizers.spec import QuantizerSpec
from lutvar.quant.methods.quantizers.static import StaticQuantizer

from .base import StepBase, register_step


@register_step("static-tokens")
class StaticTokens(StepBase):
    """Replaces the dynamic quantizer of the input by one with ranges from calibration data.

    Comes after all steps that change the input.

    Attributes:
        ranges: "scale" one for each scale step, "sink" one for the first step and one for the
            rest, "tensor" one. RAR and PAR have one range for each of their sink tokens and one for
            the rest (`BlockData.regions`) under either of the first two, as released; "pass" is one
            for each of their passes.
        batch: rows for each range; later batches enter the moving average.
        zero_points: of several batches, "rounded" or "averaged".
    """

    reads_data: ClassVar[bool] = True

    ranges: Literal["scale", "sink", "pass", "tensor"] = "scale"
    batch: int = Field(default=64, ge=1)
    zero_points: ZeroPoints = "rounded"

    def apply(self, block: Block) -> None:
        for layer in self.layers_in(block):
            quantizer = layer.activation
            if quantizer is None:
                continue
            if not isinstance(quantizer, FakeQuantizer) or not quantizer.spec.asymmetric:
                raise ValueError(
                    f"{layer.site}: static-tokens fixes the range of asymmetric integers, not of "
                    f"{quantizer!r}; write input: {{format: INT8, group: row, asymmetric: true}}"
                )
            layer.activation = self._fixed(block, layer, quantizer.spec)

    def _fixed(self, block: Block, layer: Layer, spec: QuantizerSpec) -> StaticQuantizer:
        assert block.data is not None
        batches: list[tuple[Tensor, Tensor]] = []
        pairs: tuple[int, ...] = (0,)
        for x_BLI, scales in row_batches(block, layer, self.batch):
            regions: Sequence[int] = block.data.regions
            if len(regions) != len(scales):  # no tokens of the first step, or one vector for all
                regions = range(len(scales))
            pairs = shared_ranges(self.ranges, regions, block.data.sink)
            parts = parts_of(pairs, scales) or ((scales[0][0], scales[-1][1]),)
            ranges = [percentile_range(x_BLI[:, a:b].reshape(1, -1), spec.bits) for a, b in parts]
            batches.append((torch.cat([r[0] for r in ranges]), torch.cat([r[1] for r in ranges])))
        if layer.site.name == "word_embed" and len(pairs) > 1:
            pairs = (0, *pairs)  # no tokens of the first scale step
        scale_S, zero_point_S = average_range(batches, self.zero_points)
        return StaticQuantizer.of(spec.format, scale_S, zero_point_S, pairs, self.zero_points)
