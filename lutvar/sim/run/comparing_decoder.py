# SPDX-License-Identifier: Apache-2.0
"""A decoder that runs every image on the device and on the golden model, and compares them.

What each program leaves in memory is compared bit by bit: every map, and the pixels in the end.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lutvar.contract.decoder import Step
from lutvar.contract.decoder_host import pixels
from lutvar.contract.decoder_memory import target_place
from lutvar.host.compile.decoder.compiler import CompiledStage
from lutvar.host.device_decoder import DeviceDecoder
from lutvar.quant.golden.decoder import GoldenDecoder

from .comparing import Comparison


class ComparingDecoder:
    """Runs both, compares, and returns the device's images.

    Args:
        golden: the golden model.
        device: the device; its `on_stage` is taken.
        comparison: collects counts and differences.
        on_difference: called with the latent map [Z, h, w] of the first image that differs, if
            nothing has differed before.
    """

    def __init__(
        self,
        golden: GoldenDecoder,
        device: DeviceDecoder,
        comparison: Comparison,
        on_difference: Callable[[NDArray[np.float32]], None] | None = None,
    ) -> None:
        self.golden, self.device, self.comparison = golden, device, comparison
        self.on_difference = on_difference
        self.images = 0
        self._expected: dict[Step, NDArray[Any]] = {}
        device.on_stage = self._compare

    def __call__(self, latents_BZHW: Tensor) -> Tensor:
        """Images in [0, 1], [B, channels, H, W]; see `GoldenDecoder`."""
        images = [self.image(one) for one in latents_BZHW.detach().float().numpy()]
        return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()

    def image(self, latent_ZHW: NDArray[np.float32]) -> NDArray[np.float32]:
        """One image in [0, 1], [H, W, channels], of a latent map [Z, h, w]."""

        def watch(step: Step, result: NDArray[Any]) -> None:
            self._expected[step] = result[0]

        equal_before = not self.comparison.mismatches
        expected = pixels(self.golden.raw_image(latent_ZHW[None], watch)[0])
        actual = pixels(self.device.raw_image(latent_ZHW))
        name = f"image {self.images}: pixels"
        self.comparison.add("pixels", name, *(x.view(np.uint32) for x in (expected, actual)))
        self.images += 1
        if equal_before and self.comparison.mismatches and self.on_difference is not None:
            self.on_difference(latent_ZHW)
        return actual

    def _compare(self, compiled: CompiledStage) -> None:
        """Maps that the program has left."""
        stage = compiled.stage
        steps: list[Step] = [*([] if stage.attend is None else [stage.attend]), *stage.steps]
        left = {target_place(step): step for step in steps}
        for step in left.values():
            expected, actual = self._expected[step], self.device.read_map(step)
            kind = np.uint32 if actual.dtype == np.float32 else np.uint16
            what = getattr(step, "name", "") or f"copy of {step.source}"
            self.comparison.add(
                "maps", f"image {self.images}: {what} -> {step.target}",
                np.ascontiguousarray(expected).view(kind), actual.view(kind),
            )  # fmt: skip


class FirstImages:
    """Decodes the first images on the device, the others on the golden model alone.

    Args:
        comparing: both, and what compares them.
        count: images of the device.
    """

    def __init__(self, comparing: ComparingDecoder, count: int) -> None:
        self._comparing, self._left = comparing, count

    def __call__(self, latents_BZHW: Tensor) -> Tensor:
        """Images in [0, 1], [B, channels, H, W]; see `GoldenDecoder`."""
        images = []
        for latent_1ZHW in latents_BZHW.split(1):
            of = self._comparing if self._left > 0 else self._comparing.golden
            images.append(of(latent_1ZHW))
            self._left -= 1
        return torch.cat(images)
