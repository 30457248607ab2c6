# SPDX-License-Identifier: Apache-2.0
"""Images as latent maps, with numpy alone: embeddings, sampling and feature map around a device.

    model = HostModel.load("digits.host")
    with Session.open("uio:lutvar", packed) as session:
        made = generate(model, session.transformer, labels=[3], seeds=[0], cfg=1.5)

`lutvar pack --host-model` writes the file. What is left to do is the decoder: `made[i].latent` is
its input, and `decode=session.decoder` makes `made[i].image` of it. The sampler is PyTorch's.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from lutvar.contract.editing import Edit
from lutvar.contract.labels import Label
from lutvar.contract.passes import Transformer
from lutvar.times import Times

from .group import Decode, Generated, Order, check_schedule, decoded, run_group
from .host_model import HostModel

__all__ = ["Generated", "HostModel", "generate"]


def generate(
    model: HostModel,
    transformer: Transformer,
    labels: Sequence[Label],
    seeds: Sequence[int],
    cfg: float = 1.5,
    top_k: int = 0,
    top_p: float = 0.0,
    edits: Sequence[Edit] | None = None,
    smooth: bool = False,
    times: Times | None = None,
    *,
    slots: int | None = None,
    stagger: int = 0,
    decode: Decode | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Generated]:
    """Generate images; `lutvar.host.overlap` has the same with host and device at work together.

    Args:
        model: embeddings and codebook.
        transformer: on a device with as many slots.
        labels: classes; -1 or their number for none, None for a class drawn from the seed.
        seeds: one for each image.
        cfg, top_k, top_p: guidance at the last scale, and what may be drawn, as in
            `lutvar generate`.
        edits: tokens of given images and what stays of them, one for each image.
        smooth: put mixtures of codebook entries into the map (`lutvar.contract.smoothing`).
        times: where the time of each part is counted; default: nowhere.
        slots: images in progress at once; default: all, each in the slot of its index.
        stagger: passes between the starts of two images; 0 starts one in every free slot. With 1
            and as many slots as scales, every pass holds each scale once.
        decode: makes the image of a latent map when it is finished; default: nothing.
        progress: called as progress(images done, images).

    Raises:
        BadInput: labels, seeds and edits that do not fit the model or each other.
    """
    order = Order.of(model, labels, seeds, cfg, top_k, top_p, edits, smooth)
    slots = max(1, len(order.classes)) if slots is None else slots
    check_schedule(slots, stagger)
    times = times or Times()
    made: dict[int, Generated] = {}

    def finished(index: int, image: Generated) -> None:
        made[index] = decoded(image, decode, times)
        if progress is not None:
            progress(len(made), len(order.classes))

    waiting = deque(range(len(order.classes)))
    run_group(order, transformer, range(slots), waiting, finished, stagger=stagger, times=times)
    return [made[i] for i in range(len(made))]
