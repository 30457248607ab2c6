# SPDX-License-Identifier: Apache-2.0
"""The edits for which this project and the released notebook are compared."""

from __future__ import annotations

from typing import NamedTuple

import torch

from .var_cases import CASES, Case, image_batch

#: Every how many rows and columns of pixels the fixtures keep; no multiple of a cell's 16.
STRIDE = 11
CENTRE = (0.1, 0.1, 0.8, 0.8)


class Run(NamedTuple):
    """One call: model (`var_cases`), images, box, labels, sampling.

    Attributes:
        case: name of the model.
        images: how many of the model's images, from the first.
        labels: one for each image; None: random ones.
        box: top, left, bottom, right in fractions; None: nothing is given.
    """

    case: str
    images: int
    labels: tuple[int, ...] | None
    smooth: bool
    box: tuple[float, float, float, float] | None = CENTRE
    outside: bool = False
    seed: int = 5
    cfg: float = 3.0
    top_k: int = 60
    top_p: float = 0.95

    @property
    def name(self) -> str:
        """Of its values in the fixtures."""
        task = "generate" if self.box is None else "outpaint" if self.outside else "inpaint"
        corner = "" if self.box in (None, CENTRE) else f" {self.box}"
        return f"{self.case} {self.images} {self.labels} {task}{corner} {self.smooth} {self.seed}"


def _runs() -> list[Run]:
    runs = [
        Run(case, images, (label,) * images, smooth, outside=outside)
        for case in ("topk_topp", "shared")
        for images in (1, 2)
        for label in (5, 2)  # the null class and a class
        for smooth in (False, True)
        for outside in (False, True)
    ]
    runs += [Run("plain", 2, (1, 5), smooth, top_k=0, top_p=0.0) for smooth in (False, True)]
    boxes = (0.0, 0.25, 0.55, 1.0), (0.35, 0.1, 0.65, 0.5)
    runs += [Run("ten_scales", 1, (4,), smooth, box, out, top_k=0)
             for box in boxes for smooth, out in ((False, True), (True, False))]  # fmt: skip
    runs += [
        Run("topk_topp", 2, None, smooth, box, seed=seed)
        for seed in (5, 11)
        for smooth, box in ((False, None), (True, None), (True, CENTRE))
    ]
    runs += [Run("shared", 2, (0, 5), True, None)]
    return runs + [plain(case.name) for case in CASES]


def plain(case: str) -> Run:
    """An image of a model without anything of editing: does this processor round alike?"""
    return Run(case, 1, (1,), False, None)


RUNS = _runs()


def case_of(run: Run) -> Case:
    """The model of a run."""
    return next(case for case in CASES if case.name == run.case)


def images_of(run: Run) -> torch.Tensor:
    """Its given images, [B, 3, size, size] in [-1, 1]."""
    return image_batch(case_of(run))[: run.images]
