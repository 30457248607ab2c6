# SPDX-License-Identifier: Apache-2.0
"""What one pass through the transformer computes: the question that golden model and device answer.

A pass may hold several images, each at its own scale: the weights are read once for all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

GUIDANCE_STEPS = 128  #: guidance strengths are multiples of 1 / 128
GUIDANCE_LIMIT = 15.0


@dataclass(frozen=True, eq=False)
class ImageStep:
    """One image at one scale. n tokens, width C.

    Attributes:
        slot: cache slot of the image; slots are independent of each other.
        label: class, for the AdaLN vectors of the conditional half.
        position: tokens of the image that the cache holds already; 0 starts a new image.
        x_cond: embeddings of the conditional half, float32 [n, C].
        x_uncond: embeddings of the unconditional half, or None for no guidance at all.
        guidance: t, a multiple of 1/128 from 0 to 15 (`guidance_at`); logits are
            `(1 + t) cond - t uncond`.
    """

    slot: int
    label: int
    position: int
    x_cond: NDArray[np.float32]
    x_uncond: NDArray[np.float32] | None
    guidance: float = 0.0

    @property
    def tokens(self) -> int:
        """Tokens of the image at this scale, n."""
        return int(self.x_cond.shape[0])


class Transformer(Protocol):
    """Runs passes: the golden model, the simulated device, the board."""

    def run(self, steps: Sequence[ImageStep]) -> list[NDArray[np.float32]]:
        """Logits of each step, float32 [n, vocab], guided if the step is; updates the caches."""
        ...


def guidance_at(cfg: float, scale: int, scales: int) -> float:
    """Guidance strength of a scale, `cfg * scale / (scales - 1)` rounded to 1/128.

    Raises ValueError for a strength that the device cannot represent.
    """
    t = round(GUIDANCE_STEPS * cfg * scale / max(scales - 1, 1)) / GUIDANCE_STEPS
    if not 0 <= t < GUIDANCE_LIMIT:
        raise ValueError(f"guidance {t} at scale {scale}; it must be from 0 to {GUIDANCE_LIMIT}")
    return t
