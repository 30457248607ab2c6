# SPDX-License-Identifier: Apache-2.0
"""Inputs without their mean: what is the same in all tokens needs no codes.

Sources: channel-wise shifting of Outlier Suppression+ (arXiv:2304.09145, section 4.1), which moves
the middle of the range to zero. Here it is the mean: a symmetric quantizer's error grows with the
energy of a group, and behind a Hadamard transform with nothing else.

Nothing is left to do at run time. In front of qkv, fc1 and head the shift goes into the AdaLN
vectors, in front of fc2 into the vector that GELU's results get added. In front of proj it goes
into the bias of the values, because the weights of attention sum to 1 for each token. In any case
the bias of the linear takes it back.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar, Literal

import torch

from lutvar.quant.methods.calibration.moments import require_data
from lutvar.quant.methods.layers.layer import Block, Layer
from lutvar.quant.methods.layers.operations import round_vectors, shift_channels

from .base import StepBase, register_step


@register_step("mean-shift")
class MeanShift(StepBase):
    """Takes the mean over tokens off every input channel.

    Attributes:
        share: of the mean that is taken off.
    """

    reads_data: ClassVar[bool] = True

    sites: tuple[Literal["qkv", "proj", "fc1", "fc2", "head"], ...] | None = ("qkv", "proj", "fc1")
    share: float = 1.0

    @torch.no_grad()
    def apply(self, block: Block) -> None:
        for layer in self.layers_in(block):
            if layer.activation is None:
                continue
            require_data(block, layer, self.step)
            assert block.data is not None
            x_BLI = layer.prepared(block.data.inputs[layer.site.name])
            mean_I = x_BLI.double().mean((0, 1)).float()
            part = float(mean_I.square().sum() / x_BLI.square().sum(-1).mean().clamp_min(1e-30))
            if layer.site.name == "proj":
                self._through_values(block, layer, -self.share * mean_I)
            else:
                shift_channels(layer, -self.share * mean_I)
                if layer.site.name == "fc2":
                    round_vectors(layer)
            layer.notes.append(f"{self.step}: the mean is {part:.3f} of the input's energy")

    def _through_values(self, block: Block, proj: Layer, shift_I: torch.Tensor) -> None:
        """Shift the input of proj by the bias of the value rows of qkv."""
        qkv = block.layers.get("qkv")
        if qkv is None:
            raise ValueError(
                f"{self.step}: block {block.index}: the recipe does not name qkv, whose bias takes "
                "in the shift of proj's input (an entry without quantizers is enough)"
            )
        if proj.operations:
            raise ValueError(f"{self.step}: it must come before steps that change proj's input")
        width = proj.weight_OI.shape[1]
        bias_O = (
            torch.zeros(len(qkv.weight_OI), dtype=torch.float32)
            if qkv.bias_O is None
            else qkv.bias_O.clone()
        )
        bias_O[2 * width :] += shift_I
        qkv.bias_O = bias_O
        offset_O = proj.weight_OI @ shift_I
        proj.bias_O = -offset_O if proj.bias_O is None else proj.bias_O - offset_O
        assert block.data is not None
        # Later steps must see what proj will see.
        x_BLI = block.data.inputs["proj"] + shift_I
        block.data = replace(block.data, inputs={**block.data.inputs, "proj": x_BLI})
