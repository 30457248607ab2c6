# SPDX-License-Identifier: Apache-2.0
"""Two whole generations side by side: tokens and pixels, equal or how far apart."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import torch

from lutvar.quant.var import GenerationResult


@dataclass(frozen=True)
class GenerationComparison:
    """How two generations differ.

    Attributes:
        tokens, tokens_different: sampled tokens over all images and scales.
        values, values_different: pixel values, compared as float32 bits.
        images, images_different: whole images.
        psnr: peak signal-to-noise ratio of the pixels in dB, None when all are equal.
    """

    tokens: int
    tokens_different: int
    values: int
    values_different: int
    images: int
    images_different: int
    psnr: float | None

    @property
    def equal(self) -> bool:
        """Tokens and pixels are the same."""
        return self.tokens_different == 0 and self.values_different == 0

    def as_dict(self) -> dict[str, object]:
        """Plain data for JSON."""
        return asdict(self) | {"equal": self.equal}


def compare_generations(a: GenerationResult, b: GenerationResult) -> GenerationComparison:
    """Compare two generations of the same labels and seed.

    Raises:
        ValueError: numbers of scales, tokens or pixels differ.
    """
    shapes = [([t.shape for t in r.tokens], r.images_BCHW.shape) for r in (a, b)]
    if shapes[0] != shapes[1]:
        raise ValueError(f"generations of different shape: {shapes[0]} and {shapes[1]}")
    pairs = list(zip(a.tokens, b.tokens, strict=True))
    left, right = a.images_BCHW.contiguous(), b.images_BCHW.contiguous()
    different = left.view(torch.int32) != right.view(torch.int32)
    error = float((left.double() - right.double()).square().mean())
    return GenerationComparison(
        tokens=sum(s.numel() for s, _ in pairs),
        tokens_different=sum(int((s != t).sum()) for s, t in pairs),
        values=different.numel(),
        values_different=int(different.sum()),
        images=len(left),
        images_different=int(different.flatten(1).any(1).sum()),
        psnr=-10 * math.log10(error) if error else None,
    )
