# SPDX-License-Identifier: Apache-2.0
"""Constants of the quantizer, and which formats give inputs in two terms (contract, section 4)."""

from __future__ import annotations

from itertools import pairwise

from .formats import NumberFormat

#: Binary places of the reciprocals; with them `(f, tie)` is exact.
PLACES = 22
#: Binary places that are kept of `2 y`; what term 1 leaves counts `2**-(FRACTION_BITS + 1)` grid
#: steps.
FRACTION_BITS = 8
#: What is left must be a significand of FP16.
_REST_BITS = 11
#: Bits that reciprocals of term 2 are shifted by at most: they fit a 27-bit multiplier.
REST_SHIFT = 7
#: A group whose values leave less everywhere is a zero group in term 2.
REST_THRESHOLD = 1 << _REST_BITS - 1 - REST_SHIFT
#: Reciprocals have 13 bits more than M, and those of term 2 `REST_SHIFT` more.
_MOST_TOP = (1 << 26 - 13 - REST_SHIFT) - 1


def check_two_terms(fmt: NumberFormat) -> None:
    """Raises ValueError for a format whose values cannot be given in two terms."""
    if fmt.dual:
        raise ValueError(f"{fmt.name} is dual; only formats of one scale have two terms")
    levels = fmt.positive.levels
    widest = max(b - a for a, b in pairwise(levels))
    if widest << FRACTION_BITS >= 1 << _REST_BITS:
        raise ValueError(
            f"levels of {fmt.name} are up to {widest} grid steps apart; formats of two terms have "
            f"fewer than {1 << _REST_BITS - FRACTION_BITS}"
        )
    if fmt.scale_top() > _MOST_TOP:
        raise ValueError(
            f"{fmt.name} puts the absolute maximum at grid integer {fmt.scale_top()}; formats of "
            f"two terms have at most {_MOST_TOP}"
        )
