# SPDX-License-Identifier: Apache-2.0
"""What happens to a value exactly halfway between two neighbouring levels: three named rules.

| rule | a tie goes to | who does it |
|---|---|---|
| `even` | the level whose rank (place in the ascending magnitudes) is even | this product |
| `up` | the level nearer to plus infinity | FPQVAR's CUDA kernel |
| `down` | the level nearer to minus infinity | FPQVAR's Python path |

For sign-magnitude floats, rank parity is the parity of the last significand bit, so `even` is
IEEE round to nearest even. Needs no torch: gateware generators use this file too.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from fractions import Fraction
from typing import Literal, get_args

TieRule = Literal["even", "up", "down"]
TIE_RULES: tuple[TieRule, ...] = get_args(TieRule)


def check_ties(name: str) -> TieRule:
    """The rule of that name; raises ValueError naming the known ones."""
    if name not in TIE_RULES:
        raise ValueError(f"unknown tie rule {name!r}; known: {', '.join(TIE_RULES)}")
    return name


def tie_goes_out(ties: TieRule, negative: bool, inner_rank: int) -> bool:
    """Whether a tie between ranks `inner_rank` and `inner_rank + 1` goes away from zero.

    Args:
        ties: the rule.
        negative: the value is below zero, so that "away from zero" is downward.
        inner_rank: rank of the smaller of the two magnitudes, 0 for zero itself.
    """
    if ties == "even":
        return inner_rank % 2 == 1
    return negative == (check_ties(ties) == "down")


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
