# SPDX-License-Identifier: Apache-2.0
"""Labels as users give them: a class, the null class by either of its numbers, or any class."""

from __future__ import annotations

from collections.abc import Sequence

from .errors import ConfigError
from .seeds import check_seed

NO_CLASS = -1  #: the null class; the number of classes means it as well, as in the official code
RANDOM = None  #: a class drawn from the seed of the image
Label = int | None


class LabelError(ConfigError):
    """A class that the model does not have."""


def class_index(label: int, classes: int) -> int:
    """Class as the model counts: 0 to classes - 1, and `classes` for the null class.

    Raises:
        LabelError: a label of no class.
    """
    if not NO_CLASS <= label <= classes:
        raise LabelError(
            f"class {label}: the model has classes 0 to {classes - 1}, and -1 or {classes} for the "
            "null class"
        )
    return classes if label == NO_CLASS else int(label)


def random_class(seed: int, classes: int) -> int:
    """The class that a seed draws, 0 to classes - 1, all of them equally likely.

    The stream is not that of the image's tokens: the image is the one that this class and seed
    give when the class is named.
    """
    import numpy as np  # here: commands check labels before anything heavy is needed

    return int(np.random.RandomState((check_seed(seed), 1)).randint(classes))


def resolve_classes(labels: Sequence[Label], seeds: Sequence[int], classes: int) -> list[int]:
    """Class indices of images, `classes` for the null class.

    Raises:
        LabelError: a label of no class.
        ValueError: not one seed for each label, or a seed out of range.
    """
    if len(labels) != len(seeds):
        raise ValueError(f"{len(labels)} labels and {len(seeds)} seeds; one seed for each image")
    return [
        random_class(seed, classes) if label is RANDOM else class_index(label, classes)
        for label, seed in zip(labels, seeds, strict=True)
    ]
