# SPDX-License-Identifier: Apache-2.0
"""Files of `torch.save`: read without running code, with an error that says what is in the way."""

from __future__ import annotations

import pickle
import re
import zipfile
from pathlib import Path

import torch

#: How many names an error lists.
_LISTED = 4
_ESCAPES = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


class PickledError(ValueError):
    """A file that is damaged or holds more than tensors, numbers and text.

    Attributes:
        objects: whether it is whole, and holds objects of Python.
    """

    def __init__(self, text: str, objects: bool) -> None:
        super().__init__(text)
        self.objects = objects


def read_pickled(path: Path) -> object:
    """What is in the file, on the CPU; tensors are mapped where the format allows it.

    Raises:
        PickledError: not a whole file of tensors, numbers and text in containers.
    """
    archive = zipfile.is_zipfile(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=archive)
    except (RuntimeError, pickle.UnpicklingError, EOFError, OSError, ValueError) as error:
        objects = _objects(path) if archive else []
        if objects or (isinstance(error, pickle.UnpicklingError) and "weights only" in str(error)):
            names = ", ".join(objects[:_LISTED]) or "of unknown classes"
            raise PickledError(
                f"{path}: holds pickled objects ({names}) and not only tensors; loading those can "
                "run any code",
                objects=True,
            ) from error
        lines = _ESCAPES.sub("", str(error)).splitlines() or [type(error).__name__]
        raise PickledError(
            f"{path}: not a complete weights file ({lines[0]})", objects=False
        ) from error


def _objects(path: Path) -> list[str]:
    """Classes and functions in the file that are neither tensors nor containers."""
    try:
        return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except Exception:  # a damaged file: the caller has the first error
        return []
