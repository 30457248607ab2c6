# SPDX-License-Identifier: Apache-2.0
"""What `lutvar edit` made: edited images as bytes, the sheet, and what of the image was kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from lutvar.contract.editing import Mask, masks_of
from lutvar.quant.models import LoadedModel
from lutvar.sim.run.edit_sheet import Bytes, as_bytes, write_edit_sheet
from lutvar.text import class_name

from .row import Row


@dataclass(frozen=True)
class EditResult:
    """Edits of one image.

    Attributes:
        model: the float model.
        given_1CHW: the given image, in [-1, 1].
        mask: over the last token map, True where the image stays.
        row: what was drawn.
        outside: the region was the part to keep.
        paste: the given image's pixels go over kept cells.
    """

    model: LoadedModel
    given_1CHW: Tensor
    mask: Mask
    row: Row
    outside: bool
    paste: bool

    @property
    def task(self) -> str:
        """For people."""
        kinds = []
        if any(label < 0 for label in self.row.labels):
            kinds.append("out-painting" if self.outside else "in-painting")
        if any(label >= 0 for label in self.row.labels):
            kinds.append("editing towards a class")
        return " and ".join(kinds)

    @cached_property
    def masks(self) -> list[Mask]:
        """Of every scale."""
        return masks_of(self.mask, self.model.info.var.patch_nums)

    @cached_property
    def given(self) -> Bytes:
        """The given image, [H, W, C]."""
        return as_bytes(((self.given_1CHW[0] + 1) / 2).numpy())

    @property
    def kept_pixels(self) -> NDArray[np.bool_]:
        """Pixels of the cells that stay, [H, W]."""
        cell = len(self.given) // len(self.mask)
        return np.kron(self.mask, np.ones((cell, cell), bool))

    def images(self) -> list[Bytes]:
        """The edited images, [H, W, C] each."""
        drawn = [as_bytes(image) for image in self.row.images_BCHW]
        if not self.paste:
            return drawn
        return [np.where(self.kept_pixels[..., None], self.given, image) for image in drawn]

    @cached_property
    def psnr(self) -> float | None:
        """Of the kept cells' pixels as drawn, all results together, in dB; None when all agree."""
        keep = self.kept_pixels
        wanted = self.given[keep].astype(float)
        drawn = [as_bytes(image)[keep] for image in self.row.images_BCHW]
        error = float(np.mean([(one - wanted) ** 2 for one in drawn]))
        return float(10 * np.log10(255**2 / error)) if error else None

    def kept_text(self) -> str:
        """How much was kept, in a sentence."""
        kept, cells = sum(int(m.sum()) for m in self.masks), sum(m.size for m in self.masks)
        text = f"{kept} of {cells} tokens are the given image's"
        if self.psnr is None or self.paste:
            return text
        return f"{text}; PSNR of their pixels in the result to the given ones: {self.psnr:.1f} dB"

    def data(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "classes": list(self.row.labels),
            "tokens": self.row.tokens,
            "mask": self.mask.astype(int).tolist(),
            "kept": [int(m.sum()) for m in self.masks],
            "kept_psnr": self.psnr,
            "pasted": self.paste,
        }

    def sheet(
        self, path: Path, images: Sequence[Bytes], seeds: Sequence[int], together: int, where: str
    ) -> None:
        """Write the sheet.

        Args:
            path: PNG file.
            images: the results.
            seeds: of each.
            together: results of one class.
            where: what computed the logits.
        """
        vqvae, info = self.model.vqvae, self.model.info
        decoded = vqvae.decode(vqvae.encode(self.given_1CHW))[0].numpy()
        names = [
            f"{class_name(info.classes, label)}, seed {seed}"
            for label, seed in zip(self.row.labels, seeds, strict=True)
        ]
        title = f"lutvar edit: {self.task} on model {info.name}"
        note = f"orange: drawn anew; {where}; {self.kept_text().partition(';')[0]}"
        write_edit_sheet(
            path, self.given, as_bytes(decoded), self.masks, images, names, together, title, note
        )
