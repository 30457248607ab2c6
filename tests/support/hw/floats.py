# SPDX-License-Identifier: Apache-2.0
"""Values of the hardware's number patterns."""

from __future__ import annotations


def fp16(pattern: int) -> float:
    """Value of an extended FP16 pattern, exponent 31 being one more binade, without sign."""
    exponent, fraction = pattern >> 10 & 31, pattern & 1023
    significand = fraction + (1024 if exponent else 0)
    return significand * 2.0 ** (max(exponent, 1) - 25)
