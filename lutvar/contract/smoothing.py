# SPDX-License-Identifier: Apache-2.0
"""Smooth sampling: a mixture of codebook entries enters the feature map in place of the drawn one.

Each scale is drawn as always, and Gumbel noise from the same random stream follows the draw. The
softmax of scaled logits and noise, over a temperature that falls from scale to scale, weighs the
entries of the codebook. Images get smoother and less varied; published figures are made without.

Source: VAR (arXiv:2404.02905), the released sampler (`more_smooth`), after MaskGIT
(arXiv:2202.04200); Gumbel softmax (arXiv:1611.01144).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

_FIRST, _FALL, _LEAST = 0.27, 0.95, 0.005


class _Array(Protocol):
    """What numpy's arrays and torch's tensors have in common here."""

    def __mul__(self: _A, other: float, /) -> _A: ...
    def __add__(self: _A, other: _A, /) -> _A: ...
    def __truediv__(self: _A, other: float, /) -> _A: ...


_A = TypeVar("_A", bound=_Array)


def smoothing(scale: int, scales: int) -> tuple[float, float]:
    """Factor of the logits and temperature at a scale: 1 to 2, and 0.27 down to 0.0135."""
    ratio = scale / (scales - 1)
    return 1 + ratio, max(_FIRST * (1 - ratio * _FALL), _LEAST)


def smooth_weights(
    logits: _A, gumbel: _A, scale: int, scales: int, softmax: Callable[[_A], _A]
) -> _A:
    """Weight of each codebook entry in each cell, [..., V]; rows add up to 1.

    The arrays may be numpy's or PyTorch's: the rule is the same.

    Args:
        logits: filtered, guided logits; -inf for entries that may not be drawn.
        gumbel: noise of the same shape, finite.
        scale, scales: which scale of how many.
        softmax: over the last axis.
    """
    factor, temperature = smoothing(scale, scales)
    return softmax((logits * factor + gumbel) / temperature)
