# SPDX-License-Identifier: Apache-2.0
"""What runs between two acts of the host: the decoder's steps cut where it must act.

The host makes the vectors of every group norm out of sums, and computes attention. A stage begins
where it has done either; all other steps go on in the same program.
"""

from __future__ import annotations

from dataclasses import dataclass

from lutvar.contract.decoder import Attend, Conv, DecoderShape, Norm, Step


@dataclass(frozen=True)
class Stage:
    """One program.

    Attributes:
        steps: convolutions and norms, in order.
        norm: the first step, if it is a group norm: the host writes its vectors before.
        attend: what the host computes before; or None.
        sums: the convolution whose sums are written in the end; or None.
    """

    steps: tuple[Conv | Norm, ...]
    norm: Norm | None
    attend: Attend | None
    sums: Conv | None

    @property
    def name(self) -> str:
        """For people: the last convolution."""
        return self.steps[-1].name


def stages(shape: DecoderShape) -> list[Stage]:
    """All stages of a decoder, in order."""
    found: list[Stage] = []
    steps: list[Conv | Norm] = []
    attend: Attend | None = None

    def close() -> None:
        nonlocal steps, attend
        if steps:
            first = steps[0]
            norm = first if isinstance(first, Norm) and first.name else None
            found.append(Stage(tuple(steps), norm, attend, None))
        steps, attend = [], None

    for step in shape.steps:
        if isinstance(step, Attend):
            close()
            attend = step
            continue
        if isinstance(step, Norm) and step.name:
            close()
        steps.append(step)
    close()
    return [
        Stage(stage.steps, stage.norm, stage.attend, _summed(stage, found[i + 1 :]))
        for i, stage in enumerate(found)
    ]


def _summed(stage: Stage, later: list[Stage]) -> Conv | None:
    """The convolution of a stage whose sums a later norm needs: the last that writes its map."""
    for conv in reversed([s for s in stage.steps if isinstance(s, Conv)]):
        if conv.statistics and _needed(conv.target, later):
            return conv
    return None


def _needed(name: str, later: list[Stage]) -> bool:
    """Whether a norm reads a map before it is written again."""
    steps: list[Step] = [step for stage in later for step in stage.steps]
    for step in steps:
        if isinstance(step, Norm) and step.name and step.source == name:
            return True
        if isinstance(step, Conv) and step.target == name:
            return False
    return False
