# SPDX-License-Identifier: Apache-2.0
"""Rounding to nearest, and where a value exactly halfway between two levels goes.

A level's rank is its place in the ascending magnitudes. For sign-magnitude floats its parity is
that of the last significand bit, so `EVEN` is IEEE round to nearest even. Needs no torch: gateware
generators use this file too.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from fractions import Fraction

from lutvar.text import TextEnum


class TieRule(TextEnum):
    """Where a tie goes."""

    EVEN = "even"  #: to the level with the even rank: the accelerator
    UP = "up"  #: towards plus infinity: FPQVAR's CUDA kernel
    DOWN = "down"  #: towards minus infinity: FPQVAR's Python path


def check_ties(name: str) -> TieRule:
    """The rule of that name. Raises ValueError with the known ones otherwise."""
    try:
        return TieRule(name)
    except ValueError:
        raise ValueError(f"unknown tie rule {name!r}; known: {', '.join(TieRule)}") from None


def tie_goes_out(ties: TieRule, negative: bool, inner_rank: int) -> bool:
    """Whether a tie between ranks `inner_rank` and `inner_rank + 1` goes away from zero.

    Args:
        ties: the rule.
        negative: the value is below zero, so that "away from zero" is downward.
        inner_rank: rank of the smaller of the two magnitudes, 0 for zero itself.
    """
    if ties == TieRule.EVEN:
        return inner_rank % 2 == 1
    return negative == (check_ties(ties) == TieRule.DOWN)


def nearest_rank(
    levels: Sequence[int], magnitude: int | Fraction, ties: TieRule, negative: bool
) -> int:
    """Rank of the level nearest to a magnitude: exact, one value at a time.

    Args:
        levels: ascending magnitudes, zero first.
        magnitude: an exact number in the same unit, at least 0; above the top it saturates.
        ties: what to do halfway.
        negative: sign of the value that the magnitude belongs to.
    """
    if magnitude < 0:
        raise ValueError(f"magnitude is {magnitude}; give its absolute value and negative=True")
    outer_rank = bisect_right(levels, magnitude)
    if outer_rank == len(levels):
        return outer_rank - 1
    inner = magnitude - levels[outer_rank - 1]
    outer = levels[outer_rank] - magnitude
    if outer < inner or (outer == inner and tie_goes_out(ties, negative, outer_rank - 1)):
        return outer_rank
    return outer_rank - 1
