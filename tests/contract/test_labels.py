# SPDX-License-Identifier: Apache-2.0
"""Labels: classes, the null class by both numbers, random classes."""

from __future__ import annotations

import numpy as np
import pytest

from lutvar.contract.labels import LabelError, random_class, resolve_classes


def test_the_null_class_has_two_numbers() -> None:
    assert resolve_classes([-1, 10, 3], [0, 0, 0], 10) == [10, 10, 3]


def test_random_classes_follow_the_seed_evenly() -> None:
    drawn = resolve_classes([None] * 1000, range(1000), 5)
    assert drawn == [random_class(seed, 5) for seed in range(1000)]
    np.testing.assert_allclose(np.bincount(drawn) / 1000, 0.2, atol=0.05)


def test_what_is_refused() -> None:
    for label in (-2, 11):
        with pytest.raises(LabelError, match=f"class {label}: the model has classes 0 to 9"):
            resolve_classes([label], [0], 10)
    with pytest.raises(ValueError, match="one seed for each"):
        resolve_classes([1, 2], [0], 10)
    with pytest.raises(ValueError, match="seed = -1"):
        resolve_classes([None], [-1], 10)
