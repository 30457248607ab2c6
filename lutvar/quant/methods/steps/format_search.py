# SPDX-License-Identifier: Apache-2.0
"""Number formats chosen for each block and linear by the error of the output.

Source: the mixed-format baseline of FPQVAR (arXiv:2505.16335): every pair of a weight and an
activation format is tried on calibration data, the mean squared error of the linear's output
over samples and scale steps decides.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field, field_validator
from torch import Tensor

from lutvar.contract.formats import get_format
from lutvar.quant.methods.layers.layer import Block, Layer
from lutvar.quant.methods.quantizers.fake import FakeQuantizer
from lutvar.quant.methods.quantizers.spec import QuantizerSpec

from .base import StepBase, register_step
from .galt import spread


@register_step("format-search")
class FormatSearch(StepBase):
    """Replaces the formats of weight and input; group size and scale rule stay.

    Attributes:
        weights, inputs: formats to try; empty keeps the recipe's.
        tokens: tokens of a scale step that are used, spread evenly; None for all.
    """

    reads_data: ClassVar[bool] = True

    weights: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()
    tokens: int | None = Field(default=512, ge=1)

    @field_validator("weights", "inputs")
    @classmethod
    def _check_formats(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(get_format(name).name for name in value)

    def apply(self, block: Block) -> None:
        assert block.data is not None
        for layer in self.layers_in(block):
            parts = [
                spread(layer.prepared(x).flatten(0, -2), self.tokens)
                for x in block.data.by_scale(layer.site.name)
                if x.numel()
            ]
            search(layer, parts, self.weights, self.inputs)


def search(
    layer: Layer, inputs: list[Tensor], weights: tuple[str, ...], activations: tuple[str, ...]
) -> dict[tuple[str, str], float]:
    """Try all pairs on inputs [R, I] of each scale step and keep the best in the layer.

    Returns:
        (weight format, input format) -> mean squared error of the output.
    """
    candidates_w = _candidates(layer.weight, weights)
    candidates_x = _candidates(layer.activation, activations)
    exact = [x_RI @ layer.weight_OI.T for x_RI in inputs]
    quantized = {q: [q(x_RI, 0) for x_RI in inputs] for q in candidates_x}
    errors: dict[tuple[FakeQuantizer, FakeQuantizer], float] = {}
    for weight in candidates_w:
        weight_IO = weight(layer.weight_OI).T
        for activation in candidates_x:
            parts = zip(quantized[activation], exact, strict=True)
            part_errors = [float(((x_RI @ weight_IO - y_RO) ** 2).mean()) for x_RI, y_RO in parts]
            errors[weight, activation] = sum(part_errors) / len(part_errors)
    best = min(errors, key=lambda pair: errors[pair])
    layer.weight, layer.activation = best
    named = {(w.format.name, a.format.name): error for (w, a), error in errors.items()}
    layer.notes.append(f"formats: {best[0].format.name} x {best[1].format.name}")
    return named


def _candidates(quantizer: object, formats: tuple[str, ...]) -> list[FakeQuantizer]:
    if not isinstance(quantizer, FakeQuantizer):
        raise ValueError(
            "format-search needs quantizers for weight and input in the recipe's layers; "
            f"found {type(quantizer).__name__}"
        )
    if not formats:
        return [quantizer]
    settings = quantizer.spec.model_dump()
    specs = (QuantizerSpec(**{**settings, "format": name}) for name in formats)
    return [FakeQuantizer(spec, quantizer.terms) for spec in specs]
