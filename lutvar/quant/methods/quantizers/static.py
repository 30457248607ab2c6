# SPDX-License-Identifier: Apache-2.0
"""Fake quantization of a layer's input with scales fixed beforehand, one for each scale step.

Source: PTQ4ARVG (arXiv:2601.21238), static token-wise quantization.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from .fake import FakeQuantizer, Scales
from .percentiles import ZeroPoints
from .spec import QuantizerSpec, Sharing


@dataclass
class StaticQuantizer:
    """Asymmetric integers with (scale, zero point) pairs from calibration.

    Attributes:
        format: an INT format.
        scale_S: difference of neighbouring values, one for each pair.
        zero_point_S: the codes of 0, x = (q - zero_point) * scale; averaged ones are not whole.
        pair_of_scale: which pair each scale step uses; the last entry serves all later ones.
        bits: of a code.
    """

    format: str
    scale_S: Tensor
    zero_point_S: Tensor
    pair_of_scale: tuple[int, ...]
    bits: float = field(init=False)

    def __post_init__(self) -> None:
        self.bits = float(self.quantizer().spec.bits)

    def quantizer(self) -> FakeQuantizer:
        """What applies one pair."""
        spec = QuantizerSpec(format=self.format, group=Sharing.TENSOR, asymmetric=True)
        return FakeQuantizer(spec)

    def __call__(self, x: Tensor, scale_index: int) -> Tensor:
        """Fake-quantize the tokens [..., l, I] of one scale step."""
        pair = self.pair_of_scale[min(scale_index, len(self.pair_of_scale) - 1)]
        scales = Scales(self.scale_S[pair].view(1, 1), None, self.zero_point_S[pair].view(1, 1))
        return self.quantizer().apply(x, scales)

    @classmethod
    def of(
        cls,
        bits_format: str,
        scale_S: Tensor,
        zero_point_S: Tensor,
        pair_of_scale: tuple[int, ...],
        zero_points: ZeroPoints = "rounded",
    ) -> StaticQuantizer:
        """With zero points rounded to whole numbers, or as they are (`ZeroPoints`).

        Raises:
            ValueError: a scale that is not finite and above 0, or a zero point that is not finite.
        """
        if not bool((scale_S.isfinite() & (scale_S > 0)).all() and zero_point_S.isfinite().all()):
            raise ValueError(
                f"static range with scales {scale_S.tolist()} and zero points "
                f"{zero_point_S.tolist()}; scales must be finite and above 0"
            )
        if zero_points == "rounded":
            zero_point_S = torch.round(zero_point_S)
        return cls(bits_format, scale_S.float(), zero_point_S.float(), pair_of_scale)
