# SPDX-License-Identifier: Apache-2.0
"""Which passes make images: one image or a batch, scale by scale, or staggered over the scales."""

from __future__ import annotations

from dataclasses import dataclass

from lutvar.contract.passes import guidance_at
from lutvar.contract.shape import TransformerShape
from lutvar.host.compile.steps import StepShape

SCHEDULES = ("single", "batch", "stagger")


@dataclass(frozen=True)
class PassPlan:
    """A pass, and how often it runs.

    Attributes:
        name: for tables: the side of the scale, or "all".
        steps: what it computes.
        images: images that it completes, summed over all passes of a plan: the plan's images.
    """

    name: str
    steps: tuple[StepShape, ...]
    images: float


CFG = 1.5  #: guidance; programs differ in a factor only


def plan(shape: TransformerShape, schedule: str, batch: int, guided: bool) -> list[PassPlan]:
    """The passes of a schedule.

    `single` and `batch`: one pass per scale, for 1 or `batch` images of different classes.
    `stagger`: the steady state, one pass for `batch` images at each scale; each pass completes
    `batch` images.

    Raises ValueError for an unknown schedule.
    """
    if schedule not in SCHEDULES:
        raise ValueError(f"schedule {schedule!r}; known are {', '.join(SCHEDULES)}")
    if schedule == "single":
        batch = 1
    if batch < 1:
        raise ValueError(f"batch {batch}; it must be at least 1")
    tokens = shape.scale_tokens
    scales = len(tokens)

    def step(slot: int, scale: int) -> StepShape:
        t = guidance_at(CFG, scale, scales) if guided else 0.0
        return StepShape(slot, slot, sum(tokens[:scale]), tokens[scale], guided, t)

    if schedule == "stagger":
        steps = [step(i * scales + k, k) for k in range(scales) for i in range(batch)]
        return [PassPlan("all", tuple(steps), batch)]
    return [
        PassPlan(f"{side}x{side}", tuple(step(i, k) for i in range(batch)), batch / scales)
        for k, side in enumerate(shape.patch_nums)
    ]
