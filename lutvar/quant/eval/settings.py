# SPDX-License-Identifier: Apache-2.0
"""What an evaluation run depends on, besides the model and the method."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from lutvar.quant.models import ModelInfo
from lutvar.quant.var.sampling import check_sampling

#: Images of one seed, at most; the next seed's images begin behind them.
IMAGES_PER_SEED = 1_000_000
#: torch's generator on the CPU takes 32 bits of a seed.
_SEEDS = (1 << 32) // IMAGES_PER_SEED
#: The task of drawing images of a class.
GENERATE = "generate"


@dataclass(frozen=True)
class SampleSettings:
    """How images are drawn.

    Attributes:
        cfg, top_k, top_p: as for `generate`.
        chunk: images made in one batch, saved together. Rounding may depend on the batch, so
            chunks have the same bounds whatever does the work.
        keep_images: keep the images as 8 bit values, not only tokens and features.
        task: "generate", or one of `tasks.TASKS`.
    """

    cfg: float
    top_k: int
    top_p: float
    chunk: int = 50
    keep_images: bool = False
    task: str = GENERATE

    @classmethod
    def of(
        cls,
        info: ModelInfo,
        cfg: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        chunk: int = 50,
        keep_images: bool = False,
        task: str = GENERATE,
    ) -> SampleSettings:
        """The model's own settings where none are given. Raises ValueError for bad ones."""
        settings = cls(
            info.cfg if cfg is None else cfg,
            info.top_k if top_k is None else top_k,
            info.top_p if top_p is None else top_p,
            chunk,
            keep_images,
            task,
        )
        check_sampling(settings.cfg, settings.top_k, settings.top_p, info.var.vocab)
        if chunk < 1:
            raise ValueError(f"chunk = {chunk}: at least one image")
        return settings

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON; the task where it is none of generation."""
        values = asdict(self)
        if self.task == GENERATE:
            del values["task"]
        return values


def image_seed(seed: int, image: int) -> int:
    """Seed of one image of a run; different for all images of all seeds.

    Raises:
        ValueError: seed or image out of range.
    """
    if not 0 <= seed < _SEEDS:
        raise ValueError(f"seed = {seed}: from 0 to {_SEEDS - 1}")
    if not 0 <= image < IMAGES_PER_SEED:
        raise ValueError(f"image {image}: a run has at most {IMAGES_PER_SEED:,} images")
    return seed * IMAGES_PER_SEED + image


def last_seed() -> int:
    """The largest seed of a run."""
    return _SEEDS - 1


def image_labels(first: int, count: int, classes: int) -> list[int]:
    """Classes of consecutive images: image i has class i modulo the number of classes."""
    return [i % classes for i in range(first, first + count)]
