# SPDX-License-Identifier: Apache-2.0
"""Fake quantizers with gradients: rounding passes them straight through, scales pass them on.

Source: the released code of Shift-and-Sum (arXiv:2606.16131), which reconstructs weights behind
dynamic quantizers: the range is a function of the values, the zero point a constant.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .fake import FakeQuantizer


def straight_round(x: Tensor) -> Tensor:
    """Nearest whole number, with the gradient of x."""
    return x + (torch.round(x) - x).detach()


def straight(quantizer: FakeQuantizer, x: Tensor) -> Tensor:
    """What `quantizer` makes of [..., I], with gradients.

    Integers with a zero point or a scale for each sign: through rounding, clamping and the scales.
    Other formats: that of x, as if nothing were quantized.
    """
    spec = quantizer.spec
    if not (spec.asymmetric or spec.by_sign) or spec.percentile:
        return x + (quantizer(x.detach()) - x).detach()
    scales, blocks = quantizer.scales(x), quantizer.blocks(x)
    if scales.zero_point is not None:
        q = straight_round(blocks / scales.positive)
        return asymmetric_values(q, scales.zero_point.detach(), scales.positive, spec.bits, x)
    assert scales.negative is not None
    top = quantizer.format.scale_top()
    positive = straight_round(blocks.clamp_min(0) / scales.positive).clamp(0, top)
    negative = straight_round(blocks.clamp_max(0) / scales.negative).clamp(-top, 0)
    return (positive * scales.positive + negative * scales.negative).reshape(x.shape)


def asymmetric_values(
    q: Tensor, zero_point: Tensor, scale: Tensor, bits: int, like: Tensor
) -> Tensor:
    """Multiples q of the scale, clamped to codes, as values in the shape of `like`."""
    codes = (q + zero_point).clamp(0, 2**bits - 1)
    return ((codes - zero_point) * scale).reshape(like.shape)
