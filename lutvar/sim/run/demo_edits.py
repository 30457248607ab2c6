# SPDX-License-Identifier: Apache-2.0
"""What `lutvar demo --edit` edits: images of the unquantized model, one of three tasks for each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from lutvar.contract.editing import Edit
from lutvar.contract.labels import NO_CLASS
from lutvar.contract.regions import box_mask
from lutvar.quant.models import LoadedModel
from lutvar.quant.var.editing import encode_edits
from lutvar.quant.var.passes import FloatTransformer, generate_passes

#: The middle of the image, a quarter of its area.
BOX = (0.25, 0.25, 0.75, 0.75)


@dataclass(frozen=True)
class DemoEdits:
    """Edits of a demo run.

    Attributes:
        given_BCHW: the images, in [0, 1].
        edits: one for each.
        labels: class that each is drawn as, -1 for none.
        tasks: what is done to each, for people.
    """

    given_BCHW: Tensor
    edits: Sequence[Edit]
    labels: Sequence[int]
    tasks: Sequence[str]


def demo_edits(loaded: LoadedModel, labels: Sequence[int], seeds: Sequence[int]) -> DemoEdits:
    """Draw the images to edit, and choose tasks in turn.

    In-painting draws the middle anew without a class, out-painting what is around it, and editing
    the middle as the class half the list further on.

    Args:
        loaded: the model.
        labels, seeds: of the images, which the unquantized model draws.
    """
    info, side = loaded.info, loaded.vqvae.config.patch_nums[-1]
    given = generate_passes(
        loaded.var, loaded.vqvae, FloatTransformer(loaded.var), labels, seeds, info.cfg, info.top_k,
        info.top_p,
    ).images_BCHW  # fmt: skip
    inside, outside = box_mask(BOX, side), box_mask(BOX, side, outside=True)
    masks, targets, tasks = [], [], []
    for i, label in enumerate(labels):
        target = (max(label, 0) + len(info.classes) // 2) % len(info.classes)
        mask, drawn_as, task = (
            (inside, NO_CLASS, "in-painting"),
            (outside, NO_CLASS, "out-painting"),
            (inside, target, f"to {info.classes[target]}"),
        )[i % 3]
        masks.append(mask)
        targets.append(drawn_as)
        tasks.append(task)
    return DemoEdits(given, encode_edits(loaded.vqvae, given * 2 - 1, masks), targets, tasks)
