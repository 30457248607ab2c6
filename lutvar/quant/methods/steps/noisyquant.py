# SPDX-License-Identifier: Apache-2.0
"""Fixed noise on the input before it is quantized, taken off again through the bias.

Source: NoisyQuant (arXiv:2211.16056), section 3: N is drawn once from U(-n, n) for each channel,
the layer computes Q(x + N), and the bias loses N W^T. n is searched.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lutvar.quant.methods.calibration.fixed_range import FixedRange, calibration_rows, output_error
from lutvar.quant.methods.layers.layer import ActivationQuantizer, Block, Layer
from lutvar.quant.methods.quantizers.fake import FakeQuantizer

from .base import StepBase, register_step


@dataclass(frozen=True)
class NoisyInput:
    """`inner(x + noise) - noise`; the subtraction folds into the bias."""

    inner: ActivationQuantizer
    noise_I: Tensor

    @property
    def bits(self) -> float:
        """Bits of a code."""
        return self.inner.bits

    def __call__(self, x: Tensor, scale_index: int = 0) -> Tensor:
        return self.inner(x + self.noise_I, scale_index) - self.noise_I


@register_step("noisyquant")
class NoisyQuant(StepBase):
    """Adds the noise whose size gives the smallest output error; none where none helps.

    Attributes:
        sizes: n to try, in steps of the input quantizer (mean step of dynamic ones).
        rows: calibration tokens that the output error is taken over.
    """

    reads_data: ClassVar[bool] = True

    sizes: tuple[float, ...] = (0.125, 0.25, 0.375, 0.5, 0.75, 1.0, 1.5, 2.0)
    rows: int = 1024

    def apply(self, block: Block) -> None:
        for salt, layer in enumerate(self.layers_in(block)):
            inner = layer.activation
            if inner is None:
                raise ValueError(
                    f"step noisyquant: input of {layer.site} is not quantized; give it a "
                    "quantizer or leave it out of `sites`"
                )
            x_NI = calibration_rows(block, layer, self.step, self.rows, salt)
            unit = _unit(layer, inner, x_NI)
            uniform_I = (
                torch.rand(
                    x_NI.shape[1], generator=block.generator(100 + salt), dtype=torch.float32
                )
                * 2
                - 1
            )
            best, best_size = output_error(layer, x_NI), 0.0
            for size in self.sizes:
                layer.activation = NoisyInput(inner, uniform_I * (unit * size))
                error = output_error(layer, x_NI)
                if error < best:
                    best, best_size = error, size
            noisy = NoisyInput(inner, uniform_I * (unit * best_size))
            layer.activation = noisy if best_size else inner
            layer.notes.append(f"noisyquant: noise of {best_size:g} steps")


def _unit(layer: Layer, inner: ActivationQuantizer, x_NI: Tensor) -> float:
    if isinstance(inner, FixedRange):
        return float(inner.scale.mean())
    if isinstance(inner, FakeQuantizer):
        return float(inner.scales(x_NI).positive.mean())
    raise ValueError(f"step noisyquant: {layer.site} has a {type(inner).__name__}, without a step")
