# SPDX-License-Identifier: Apache-2.0
"""The whole decoder at code level: latent maps to images (contract, section 14)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from lutvar.contract.decoder import Attend, Conv, Norm, Step
from lutvar.contract.decoder_host import Sums, attention, need_finite, pixels, vectors
from lutvar.quant.golden.pointwise import Float32, Half, fp16

from .convolution import GoldenConvolution
from .maps import ActivatedMap
from .norm import norm, sums
from .quantized import QuantizedDecoder

Watch = Callable[[Step, "Float32 | Half"], None]

#: Pixels decoded at a time: bounds the temporaries.
_PIXELS = 1 << 16


class GoldenDecoder:
    """A decoder prepared for many calls.

    Attributes:
        quantized: its weights.
    """

    def __init__(self, quantized: QuantizedDecoder) -> None:
        self.quantized = quantized
        self._convolutions = {
            name: GoldenConvolution(weights) for name, weights in quantized.convolutions.items()
        }

    def raw_image(self, latent_BZHW: Float32, watch: Watch | None = None) -> Float32:
        """Image before it is limited, [B, H, W, channels] float32.

        Args:
            latent_BZHW: latent maps [B, Z, h, w].
            watch: called with each step and its result, [b, S, S, C] float32 or FP16, for some
                images at a time.

        Raises:
            ValueError: a latent map of another size, or with a value that is not finite.
        """
        shape = self.quantized.shape
        want = (shape.z_channels, shape.latent_side, shape.latent_side)
        if latent_BZHW.ndim != 4 or latent_BZHW.shape[1:] != want:
            raise ValueError(
                f"latent map of shape {latent_BZHW.shape}: this decoder takes [B, {want}]"
            )
        need_finite("latent map", latent_BZHW)
        share = max(1, _PIXELS // shape.image_side**2)
        chunks = [latent_BZHW[i : i + share] for i in range(0, len(latent_BZHW), share)]
        return np.concatenate([_Run(self, chunk, watch).image() for chunk in chunks])

    def __call__(self, latent_BZHW: Tensor) -> Tensor:
        """Images in [0, 1], [B, channels, H, W], of latent maps [B, Z, h, w]."""
        image_BHWC = pixels(self.raw_image(latent_BZHW.detach().float().numpy()))
        return torch.from_numpy(image_BHWC).permute(0, 3, 1, 2).contiguous()

    def run(self, step: Conv, state: _Run) -> Float32:
        """Raw map of one convolution."""
        return self._convolutions[step.name](
            state.activated[step.source],
            state.activated[step.shortcut] if step.shortcut else None,
            state.raw[step.residual] if step.residual else None,
        )


class _Run:
    """One pass: the maps that exist."""

    def __init__(self, decoder: GoldenDecoder, latent_BZHW: Float32, watch: Watch | None) -> None:
        self._decoder, self._watch = decoder, watch
        z_BHWZ = np.ascontiguousarray(latent_BZHW.transpose(0, 2, 3, 1))
        self.activated = {"z": ActivatedMap(fp16(z_BHWZ))}
        self.raw: dict[str, Float32] = {}
        self._sums: dict[str, Sums] = {}

    def image(self) -> Float32:
        """Run all steps."""
        shape = self._decoder.quantized.shape
        for step in shape.steps:
            result: Float32 | Half
            if isinstance(step, Conv):
                result = self._decoder.run(step, self)
                need_finite(step.name, result)
                self.raw[step.target] = result
                if step.statistics:
                    self._sums[step.target] = sums(result)
            else:
                result = self._norm(step) if isinstance(step, Norm) else self._attend(step)
                self.activated[step.target] = ActivatedMap(result)
            if self._watch is not None:
                self._watch(step, result)
        return self.raw["image"][..., : shape.image_channels]

    def _norm(self, step: Norm) -> Half:
        raw, made = self.raw[step.source], None
        if step.name:
            weights = self._decoder.quantized.norms[step.name]
            made = vectors(
                self._sums[step.source], step.side**2, weights.weight, weights.bias, weights.eps
            )
        return norm(raw, made, step.gate)

    def _attend(self, step: Attend) -> Half:
        qkv = self.raw[step.source]
        B, side = len(qkv), step.side
        return attention(qkv.reshape(B, side * side, -1)).reshape(B, side, side, -1)
