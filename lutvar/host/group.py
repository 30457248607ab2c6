# SPDX-License-Identifier: Apache-2.0
"""Images in progress together, each at its own scale: one pass of the device serves all of them.

Every image has its own random stream, and its arithmetic on the host does not depend on what else
is in the pass; nor do its logits, for rows of a pass do not depend on each other. So its tokens and
its latent map are the same in every schedule.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lutvar.contract.editing import Edit, check_edits
from lutvar.contract.labels import Label, resolve_classes
from lutvar.contract.passes import ImageStep, Transformer, guidance_at
from lutvar.contract.sampling import TokenStream, filter_logits, softmax
from lutvar.contract.seeds import check_seed
from lutvar.contract.smoothing import smooth_weights
from lutvar.times import Times

from .errors import BadInput
from .host_model import Floats, HostModel


class Generated(NamedTuple):
    """One image.

    Attributes:
        tokens: of each scale, [p * p].
        latent: the decoder's input, [Z, p_last, p_last].
        image: what the decoder made of it, [channels, H, W] in [0, 1]; None without a decoder.
    """

    tokens: list[NDArray[np.int64]]
    latent: Floats
    image: Floats | None = None


#: From latent maps [1, Z, h, w] to images [1, channels, H, W].
Decode = Callable[[Floats], Floats]


@dataclass(frozen=True, eq=False)
class Order:
    """Which images are to be made, and how.

    Attributes:
        model: embeddings and codebook.
        classes: of each image, the null class by its number. seeds: of each image.
        cfg, top_k, top_p, edits, smooth: see `generate`.
    """

    model: HostModel
    classes: Sequence[int]
    seeds: Sequence[int]
    cfg: float
    top_k: int
    top_p: float
    edits: Sequence[Edit] | None
    smooth: bool

    @classmethod
    def of(
        cls,
        model: HostModel,
        labels: Sequence[Label],
        seeds: Sequence[int],
        cfg: float = 1.5,
        top_k: int = 0,
        top_p: float = 0.0,
        edits: Sequence[Edit] | None = None,
        smooth: bool = False,
    ) -> Order:
        """Check all of it. Raises BadInput."""
        try:
            for seed in seeds:
                check_seed(seed)
            classes = resolve_classes(labels, seeds, len(model.classes) - 1)
            if edits is not None:
                check_edits(edits, len(classes), model.patch_nums, len(model.codebook))
        except ValueError as error:
            raise BadInput(str(error)) from error
        return cls(model, classes, seeds, cfg, top_k, top_p, edits, smooth)


class _Image:
    """One image on its way through the scales."""

    def __init__(self, order: Order, index: int, slot: int) -> None:
        model = order.model
        side = model.patch_nums[-1]
        self.order, self.index, self.slot = order, index, slot
        self.scale = self.position = 0
        self.stream = TokenStream(order.seeds[index])
        self.label = order.classes[index]
        self.latent = np.zeros((model.codebook.shape[1], side, side), np.float32)
        self.tokens: list[NDArray[np.int64]] = []
        # Of both halves, which differ at the first scale only.
        self.x = model.first(self.label), model.first(len(model.classes) - 1)

    @property
    def finished(self) -> bool:
        return self.scale == len(self.order.model.patch_nums)

    def make_bits(self) -> None:
        """Begin to make what the draw of this scale takes, while the device computes."""
        order, side = self.order, self.order.model.patch_nums[self.scale]
        self.stream.ahead(side * side * len(order.model.codebook) * (2 if order.smooth else 1))

    def step(self) -> ImageStep:
        cfg, scales = self.order.cfg, len(self.order.model.patch_nums)
        return ImageStep(
            self.slot, self.label, self.position, self.x[0], self.x[1] if cfg else None,
            guidance_at(cfg, self.scale, scales),
        )  # fmt: skip

    def take(self, logits: Floats, times: Times) -> None:
        """Draw a scale from logits and prepare the next one."""
        order, scale, weights = self.order, self.scale, None
        model, edits = order.model, order.edits
        scales = len(model.patch_nums)
        with times("sampling"):
            if order.smooth:
                left = filter_logits(logits, order.top_k, order.top_p)
                drawn = self.stream.draw(left)
                noise = self.stream.gumbel(left)
                weights = smooth_weights(left, noise, scale, scales, softmax)
            else:
                drawn = self.stream.draw_filtered(logits, order.top_k, order.top_p)
        if edits is not None:
            drawn = edits[self.index].tokens_after(scale, drawn)
        self.tokens.append(drawn)
        with times("feature map"):
            cells = model.codebook[drawn]
            if weights is not None:
                mixed = (weights.astype(np.float64) @ model.codebook).astype(np.float32)
                cells = mixed if edits is None else edits[self.index].merged(scale, mixed, cells)
            self.latent = self.latent + model.spread(scale, cells)
        self.scale += 1
        self.position += len(drawn)
        if not self.finished:
            with times("embeddings"):
                both = model.next(self.scale, self.latent)
            self.x = both, both


def run_group(
    order: Order,
    transformer: Transformer,
    slots: Sequence[int],
    waiting: deque[int],
    finished: Callable[[int, Generated], None],
    *,
    stagger: int = 0,
    times: Times | None = None,
) -> None:
    """Make images until none waits; several groups with other slots may share what waits.

    Args:
        order: all images.
        transformer: on a device that has the slots.
        slots: of the images in progress at once.
        waiting: indices of images that nobody has begun.
        finished: takes each image with its index, between two passes.
        stagger: passes between the starts of two images; 0 starts one in every free slot.
        times: where the time of each part is counted; default: nowhere.
    """
    times = times or Times()
    active: list[_Image] = []
    last_start, number = -stagger, 0
    while active or waiting:
        free = [slot for slot in slots if slot not in {image.slot for image in active}]
        while free and (not stagger or number - last_start >= stagger):
            try:
                index = waiting.popleft()
            except IndexError:
                break
            with times("embeddings"):
                active.append(_Image(order, index, free.pop(0)))
            last_start = number
        # A long stagger may leave nothing to do for some passes.
        if active:
            for image in active:
                image.make_bits()
            with times("transformer"):
                results = transformer.run([image.step() for image in active])
            for image, logits in zip(active, results, strict=True):
                image.take(logits, times)
            done = [image for image in active if image.finished]
            active = [image for image in active if not image.finished]
            for image in done:
                finished(image.index, Generated(image.tokens, image.latent))
        number += 1


def check_schedule(slots: int, stagger: int, groups: int = 1) -> None:
    """Raise BadInput unless every group has a slot, and `stagger` is none or some passes."""
    if groups < 1 or stagger < 0 or slots < 1:
        raise BadInput(f"slots {slots}, stagger {stagger}, groups {groups}: at least 1, 0 and 1")
    if slots < groups:
        raise BadInput(
            f"{groups} groups of images with {slots} slots together: each needs one; use more "
            "slots or fewer groups"
        )


def decoded(image: Generated, decode: Decode | None, times: Times) -> Generated:
    """An image with its pixels, if there is something that makes them."""
    if decode is None:
        return image
    with times("decoder"):
        return image._replace(image=decode(image.latent[None])[0])
