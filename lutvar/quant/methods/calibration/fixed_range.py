# SPDX-License-Identifier: Apache-2.0
"""Integer quantizers with a range that calibration fixed, and how that range is found.

Source: the percentile search of RepQ-ViT (arXiv:2212.08254, released code): the range between two
opposite percentiles that gives the smallest squared error. AdaLog and I&S-ViT start from it too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lutvar.quant.methods.errors import CalibrationError
from lutvar.quant.methods.layers.layer import Block, Layer
from lutvar.quant.methods.quantizers.fake import FakeQuantizer

#: Percentiles that the released codes try for activations.
PERCENTILES = (0.999, 0.9999, 0.99999)


@dataclass(frozen=True)
class FixedRange:
    """Codes q = round(x / scale + zero_point) in 0..2**bits - 1; the same range for all tokens.

    Attributes:
        scale: difference of neighbouring values, [1] or one for each channel [I].
        zero_point: code of 0, shaped as `scale`. It need not be whole (means of RepQ-ViT are not).
        bits: bits of a code, as a float for reports.
    """

    scale: Tensor
    zero_point: Tensor
    bits: float

    @classmethod
    def between(cls, low: Tensor, high: Tensor, bits: int) -> FixedRange:
        """Range [low, high], stretched to contain 0 with a whole code."""
        low, high = low.clamp_max(0), high.clamp_min(0)
        scale = (high - low) / (2**bits - 1)
        scale = torch.where(scale == 0, 1.0, scale)
        return cls(scale, torch.round(-low / scale), float(bits))

    @property
    def low(self) -> Tensor:
        """Value of code 0."""
        return -self.zero_point * self.scale

    def __call__(self, x: Tensor, scale_index: int = 0) -> Tensor:
        """Fake-quantize [..., I]; the scale step does not matter."""
        codes = torch.round(x / self.scale).add_(self.zero_point).clamp_(0, 2**self.bits - 1)
        return codes.sub_(self.zero_point).mul_(self.scale)


def tails(x: Tensor, fractions: Sequence[float]) -> tuple[Tensor, Tensor]:
    """Values below which `1 - f` and `f` of each column lie, linearly interpolated.

    Args:
        x: [N, I].
        fractions: f, each above 0.5.

    Returns:
        (low, high), each [len(fractions), I]. Only the ends of the columns are sorted.
    """
    count = x.shape[0]
    tail = min(count, int((count - 1) * (1 - min(fractions))) + 2)
    high, low = (torch.topk(x, tail, dim=0, largest=end).values for end in (True, False))

    def at(ends: Tensor, fraction: float) -> Tensor:
        place = (count - 1) * (1 - fraction)
        index = min(int(place), tail - 1)
        after = min(index + 1, tail - 1)
        return torch.lerp(ends[index], ends[after], place - index)

    return torch.stack([at(low, f) for f in fractions]), torch.stack(
        [at(high, f) for f in fractions]
    )


def calibrated_range(
    x: Tensor, bits: int, by_channel: bool, fractions: Sequence[float] = PERCENTILES
) -> FixedRange:
    """The range between opposite percentiles of x [N, I] with the smallest squared error.

    Args:
        by_channel: a range for each column instead of one for all.
    """
    rows = x if by_channel else x.reshape(-1, 1)
    low, high = tails(rows, fractions)
    best: FixedRange | None = None
    best_error = torch.empty(0, dtype=torch.float32)
    for one_low, one_high in zip(low, high, strict=True):
        candidate = FixedRange.between(one_low, one_high, bits)
        error = (candidate(rows) - rows).square_().mean(0)
        if best is None:
            best, best_error = candidate, error
            continue
        better = error < best_error
        best = FixedRange(
            torch.where(better, candidate.scale, best.scale),
            torch.where(better, candidate.zero_point, best.zero_point),
            float(bits),
        )
        best_error = torch.where(better, error, best_error)
    assert best is not None
    return best


def input_bits(layer: Layer, step: str) -> int:
    """Bits that the recipe gives a layer's input.

    Raises:
        ValueError: the input is float, or its quantizer has no integer format.
    """
    activation = layer.activation
    if isinstance(activation, FakeQuantizer) and activation.spec.format.startswith("INT"):
        return activation.spec.bits
    if isinstance(activation, FixedRange):
        return int(activation.bits)
    raise ValueError(
        f"step {step} makes integer codes of the input of {layer.site}, but the recipe says "
        f"{activation!r}; write input: {{format: INT4, ...}} or leave the linear out of `sites`"
    )


def calibration_rows(
    block: Block, layer: Layer, step: str, limit: int | None = None, salt: int = 0
) -> Tensor:
    """Inputs of a layer after its operations, [N, I]; at most `limit` rows, chosen by the seed.

    Raises:
        CalibrationError: fewer than two samples, or values that are not finite.
    """
    assert block.data is not None
    x_BLI = block.data.inputs[layer.site.name]
    if x_BLI.shape[0] < 4:  # both guidance halves of one sample
        raise CalibrationError(
            f"step {step} at {layer.site}: {x_BLI.shape[0] // 2} calibration sample(s); ranges "
            "need at least 2, better one for each class: set calibration.samples"
        )
    x_NI = x_BLI.flatten(0, -2)
    if limit is not None and len(x_NI) > limit:
        index = torch.randperm(len(x_NI), generator=block.generator(salt))[:limit]
        x_NI = x_NI[index.sort().values]
    x_NI = layer.prepared(x_NI)
    if not bool(x_NI.isfinite().all()):
        raise CalibrationError(
            f"step {step} at {layer.site}: input is not finite after the operations before it"
        )
    return x_NI


def output_error(layer: Layer, x_NI: Tensor) -> float:
    """Mean squared error of a layer's output on inputs after its operations, weight rounded now."""
    weight_OI = layer.rounded_OI
    if weight_OI is None:
        weight_OI = layer.weight_OI if layer.weight is None else layer.weight(layer.weight_OI)
    quantized = x_NI if layer.activation is None else layer.activation(x_NI, 0)
    exact = x_NI @ layer.weight_OI.T
    return float((quantized @ weight_OI.T - exact).square().mean())
