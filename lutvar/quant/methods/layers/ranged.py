# SPDX-License-Identifier: Apache-2.0
"""A linear with different factors and weights for different scale steps.

Source: ViDiT-Q (arXiv:2406.02540), whose ranges of denoising steps become ranges of scale steps.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from torch import Tensor

from .layer import Layer


@dataclass
class RangedLayer(Layer):
    """Layers of one site, one for each range of scale steps; each holds a weight of its own.

    Attributes:
        parts: the layers, coarse scales first.
        starts: first scale step of each part.
    """

    parts: list[Layer] = field(default_factory=list)
    starts: tuple[int, ...] = ()

    @classmethod
    def split(cls, layer: Layer, starts: tuple[int, ...]) -> RangedLayer:
        """Independent copies of a layer, one for each range."""
        parts = [
            replace(layer, operations=list(layer.operations), notes=list(layer.notes))
            for _ in starts
        ]
        result = cls(
            layer.site, layer.weight_OI, layer.bias_O,
            activation=layer.activation, weight=layer.weight, parts=parts, starts=starts,
        )  # fmt: skip
        result.notes = [*layer.notes, f"{len(starts)} weights, one for each range of scale steps"]
        return result

    def part(self, scale_index: int) -> Layer:
        """The layer of a scale step."""
        return [p for p, s in zip(self.parts, self.starts, strict=True) if s <= scale_index][-1]

    def prepared(self, x: Tensor) -> Tensor:
        """Not defined for all scale steps at once.

        Raises:
            ValueError: always; steps work on the parts (`StepBase.layers_in`).
        """
        raise ValueError(f"{self.site} has operations of its own for each range of scale steps")

    def finish(self) -> None:
        """Round the weight of every range; see `Layer.finish`."""
        for part in self.parts:
            part.finish()
        self.rounded_OI = self.parts[-1].rounded_OI

    def __call__(self, x: Tensor, scale_index: int) -> Tensor:
        return self.part(scale_index)(x, scale_index)


def leaves(layer: Layer) -> list[Layer]:
    """The layer itself, or its parts."""
    return layer.parts if isinstance(layer, RangedLayer) else [layer]
