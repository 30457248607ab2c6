# SPDX-License-Identifier: Apache-2.0
"""Packing a linear layer: its codes, scales and biases as weight panels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from lutvar.contract.accelerator import AcceleratorConfig
from lutvar.contract.memory import pack_panel
from lutvar.contract.quant_preset import GROUP

from .errors import CompileError
from .layer_plan import LayerPlan

Bytes = NDArray[np.uint8]


class CodedWeights(Protocol):
    """A set of weight codes. O outputs, I inputs, G = I / 128 groups."""

    @property
    def codes(self) -> NDArray[np.uint8]:
        """Weight codes, [O, I]."""
        ...

    @property
    def scales(self) -> NDArray[np.uint16]:
        """FP16 patterns of the weight scales, [O, G]."""
        ...

    @property
    def exponent(self) -> int:
        """The power of two of its scales."""
        ...


class CodedLinear(Protocol):
    """A linear layer as codes."""

    @property
    def sets(self) -> Sequence[CodedWeights]:
        """Its weights: one set, or two whose sum they are."""
        ...

    @property
    def terms(self) -> tuple[int, int]:
        """Codes whose sum a weight is, and an input."""
        ...

    @property
    def bias(self) -> NDArray[np.float32]:
        """[O]."""
        ...

    @property
    def rotate(self) -> bool:
        """The input passes the Hadamard transform."""
        ...

    @property
    def dual(self) -> bool:
        """The input has a scale for each sign."""
        ...


def put(image: Bytes, offset: int, values: NDArray[Any]) -> None:
    """Write values to a byte offset."""
    raw = np.ascontiguousarray(values).reshape(-1).view(np.uint8)
    image[offset : offset + raw.nbytes] = raw


def pack_layer(
    image: Bytes,
    plan: LayerPlan,
    layer: CodedLinear,
    config: AcceleratorConfig,
    order: NDArray[np.int64] | None = None,
) -> None:
    """Write all panels of a layer to their places; outputs are padded with zero weights.

    Args:
        image: contents of region MODEL.
        plan: where they lie.
        layer: codes, scales, biases.
        config: accelerator.
        order: which output each column is; default: as they come.

    Raises CompileError for a layer that is treated otherwise than the plan says.
    """
    if (layer.rotate, layer.dual) != (plan.rotate, plan.dual):
        raise CompileError(
            f"{plan.name}: rotate {layer.rotate}, dual {layer.dual}; the accelerator's preset has "
            f"{plan.rotate}, {plan.dual}"
        )
    for number, weights in enumerate(layer.sets):
        bias = np.zeros_like(layer.bias) if number else layer.bias
        _pack_set(image, plan, number, weights, bias, config, order)


def _pack_set(
    image: Bytes,
    plan: LayerPlan,
    number: int,
    weights: CodedWeights,
    bias: NDArray[np.float32],
    config: AcceleratorConfig,
    order: NDArray[np.int64] | None,
) -> None:
    """All panels of a set of weights."""
    codes, scales = weights.codes, weights.scales
    if order is not None:
        codes, scales, bias = codes[order], scales[order], bias[order]
    pad = plan.outputs - codes.shape[0]
    if pad:
        codes, scales = np.pad(codes, ((0, pad), (0, 0))), np.pad(scales, ((0, pad), (0, 0)))
        bias = np.pad(bias, (0, pad))
    bits = config.quant_config.code_bits
    for tile in plan.tiles:
        part = slice(tile.first, tile.first + tile.outputs)
        for inputs in plan.slices:
            for panel in plan.panels(tile, inputs, number):
                group = panel.group
                raw = pack_panel(
                    codes[part, group * GROUP : (group + 1) * GROUP], scales[part, group],
                    bias[part] if group == inputs.first else None, bits, config.weight_ports,
                )  # fmt: skip
                image[panel.offset : panel.offset + len(raw)] = np.frombuffer(raw, np.uint8)
