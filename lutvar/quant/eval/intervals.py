# SPDX-License-Identifier: Apache-2.0
"""Mean and confidence interval over runs with different seeds.

Source: Student, "The probable error of a mean" (Biometrika, 1908).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

#: Probability that the interval holds the mean of infinitely many seeds.
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Interval:
    """Mean over seeds, and the half width of the interval around it (None with one seed)."""

    mean: float
    half_width: float | None
    seeds: int


def interval(values: Sequence[float]) -> Interval:
    """Student t interval of values from independent seeds.

    Raises:
        ValueError: no values.
    """
    count = len(values)
    if not count:
        raise ValueError("no values: an interval needs at least one run")
    mean = math.fsum(values) / count
    # Infinite values (a signal without noise) have a mean but no spread.
    if count == 1 or not all(map(math.isfinite, values)):
        return Interval(mean, None, count)
    from scipy.stats import t

    variance = math.fsum((v - mean) ** 2 for v in values) / (count - 1)
    factor = float(t.ppf((1 + CONFIDENCE) / 2, count - 1))
    return Interval(mean, factor * math.sqrt(variance / count), count)
