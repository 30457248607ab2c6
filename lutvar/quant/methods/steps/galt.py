# SPDX-License-Identifier: Apache-2.0
"""Learned channel factors under the Hadamard transform that follows.

Source: FPQVAR (arXiv:2505.16335), GHT-aware learnable transformation: x s before the rotation,
W / s in the weight, s learned for each block and site against the error of the layer's output,
with the identity as gradient of both quantizers.

The objective is `|X W^T - A B^T|**2 / (rows * outputs)` with A and B the quantized input and
weight. Value and gradient need the products A^T A, X^T A, B^T B and W^T B only:
`dA = A (B^T B) - X (W^T B)` and `dB = B (A^T A) - W (X^T A)`, both times
2 / (rows * outputs). So the outputs of the rows are never computed, which is several times less
work than a forward and a backward pass.
"""

from __future__ import annotations

import math
from typing import ClassVar, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from lutvar.quant.methods.errors import CalibrationError
from lutvar.quant.methods.layers.layer import Block, Layer
from lutvar.quant.methods.layers.operations import round_vectors, scale_channels
from lutvar.quant.methods.quantizers.fake import FakeQuantizer

from .base import StepBase, register_step
from .hadamard import Hadamard

#: Fewest calibration samples; fewer fit the factors to single images.
MIN_SAMPLES = 8


@register_step("galt")
class Galt(StepBase):
    """Learns s with AdamW, one optimiser step for each scale step and epoch.

    The defaults take a few seconds for a block of width 256. The authors' settings are
    `epochs: 50, rate: 0.01, schedule: constant, parameter: linear, signed: true, start: one,
    last: true, tokens: null` with 100 calibration samples (`rate: 0.002` for the 512 x 512 model).

    Attributes:
        epochs: passes over the scale steps.
        rate: of AdamW. schedule: "cosine" lets it fall to 0, "constant" does not.
        weight_decay: of AdamW. It pulls a logarithm to a factor of 1, a linear parameter to 0.
        parameter: what is learned: log s, or s itself as the authors do.
        signed: a linear parameter may pass through 0, as the authors' does.
        start: "one", or "balance": the best of 1 and two powers of the ratio of the channel's sizes
            in weight and input, see `balanced`.
        last: keep the last iterate, whatever its error. Otherwise the best of those looked at.
        check: epochs between two looks at the error.
        tokens: tokens of a scale step that are used, spread evenly; None for all.
        least_samples: calibration samples that must be there.
    """

    reads_data: ClassVar[bool] = True

    sites: tuple[Literal["qkv", "fc1", "fc2", "head"], ...] | None = ("qkv", "fc1")
    epochs: int = Field(default=20, ge=1)
    rate: float = Field(default=0.005, gt=0)
    schedule: Literal["cosine", "constant"] = "cosine"
    weight_decay: float = Field(default=0.01, ge=0)
    parameter: Literal["log", "linear"] = "log"
    signed: bool = False
    start: Literal["one", "balance"] = "balance"
    last: bool = False
    check: int = Field(default=3, ge=1)
    tokens: int | None = Field(default=1024, ge=1)
    least_samples: int = Field(default=MIN_SAMPLES, ge=1)

    def apply(self, block: Block) -> None:
        assert block.data is not None
        samples = len(block.data.labels_B) // 2
        if samples < self.least_samples:
            raise CalibrationError(
                f"step {self.step}: {samples} calibration samples; at least {self.least_samples} "
                "are needed, give more or lower least_samples"
            )
        for layer in self.layers_in(block):
            if layer.weight is None and layer.activation is None:
                continue
            rotation = following_rotation(block, layer)
            parts = [
                spread(layer.prepared(x).flatten(0, -2), self.tokens)
                for x in block.data.by_scale(layer.site.name)
                if x.numel()
            ]
            learned = learn(self, layer, parts, rotation)
            layer.notes.append(
                f"galt: objective {learned.before:.4g} -> {learned.after:.4g}, factors "
                f"{float(learned.s_I.min()):.3g} to {float(learned.s_I.max()):.3g}"
            )
            scale_channels(layer, learned.s_I, self.signed)
            if layer.site.name == "fc2":
                round_vectors(layer)


class Learned(NamedTuple):
    """Factors and the objective (mean over scale steps) without and with them."""

    s_I: Tensor
    before: float
    after: float


def following_rotation(block: Block, layer: Layer) -> Tensor | None:
    """Matrix of the Hadamard step that follows for this layer, float32, or None."""
    for step in block.following:
        if isinstance(step, Hadamard) and any(c is layer for c in step.layers_in(block)):
            return step.matrix(layer.weight_OI.shape[1]).float()
    return None


def spread(x_RI: Tensor, max_rows: int | None) -> Tensor:
    """At most `most` rows, evenly spread over all."""
    if max_rows is None or len(x_RI) <= max_rows:
        return x_RI
    return x_RI[(torch.arange(max_rows) * len(x_RI)) // max_rows]


def _rotated(x: Tensor, matrix_DD: Tensor | None) -> Tensor:
    if matrix_DD is None:
        return x
    return (x.unflatten(-1, (-1, matrix_DD.shape[0])) @ matrix_DD).flatten(-2)


class ScaleData:
    """Inputs of one scale step [R, I], and what does not change while s does."""

    def __init__(self, x_RI: Tensor, weight_OI: Tensor) -> None:
        self.x_RI, self.square_II = x_RI, x_RI.T @ x_RI
        self.count = x_RI.shape[0] * weight_OI.shape[0]
        weight_II = weight_OI.T @ weight_OI
        self.energy = float((self.square_II.double() * weight_II).sum())


class Objective:
    """Error of a layer's output as a function of s, and its straight-through gradient.

    Args:
        layer: gives weight [O, I] and quantizers.
        rotation_DD: rotation after the scaling, or None.

    Raises:
        ValueError: the input's quantizer depends on more than the input.
    """

    def __init__(self, layer: Layer, rotation_DD: Tensor | None) -> None:
        if layer.activation is not None and not isinstance(layer.activation, FakeQuantizer):
            raise ValueError(
                f"{layer.site}: factors are learned for a dynamic quantizer of the input, not for "
                f"{type(layer.activation).__name__}; put this step before the one that sets it"
            )
        self.weight_OI, self.rotation_DD = layer.weight_OI, rotation_DD
        self._input, self._weight = layer.activation, layer.weight

    def __call__(self, data: ScaleData, s_I: Tensor) -> tuple[float, Tensor]:
        """Mean squared error over rows and outputs, and its gradient [I] in log s."""
        x_RI, weight_OI = data.x_RI, self.weight_OI
        divided_OI = weight_OI / s_I
        a_RI, b_OI = (_rotated(v, self.rotation_DD) for v in (x_RI * s_I, divided_OI))
        a_RI = a_RI if self._input is None else self._input(a_RI, 0)
        b_OI = b_OI if self._weight is None else self._weight(b_OI)
        aa_II, xa_II = a_RI.T @ a_RI, x_RI.T @ a_RI
        bb_II, wb_II = b_OI.T @ b_OI, weight_OI.T @ b_OI
        back_DD = None if self.rotation_DD is None else self.rotation_DD.T
        # Row i, column j: x_i summed over the rows against dA_j; only i = j is needed in the end.
        from_x_II = _rotated(xa_II @ bb_II - data.square_II @ wb_II, back_DD)
        from_w_OI = _rotated(b_OI @ aa_II - weight_OI @ xa_II, back_DD)
        slope_I = from_x_II.diagonal() * s_I - (from_w_OI * divided_OI).sum(0)
        changed = (aa_II.double() * bb_II - 2 * xa_II.double() * wb_II).sum()
        error = max(data.energy + float(changed), 0.0) / data.count
        return error, slope_I * (2 / data.count)

    def mean(self, parts: list[ScaleData], s_I: Tensor) -> float:
        """Mean over scale steps."""
        return sum(self(part, s_I)[0] for part in parts) / len(parts)


@torch.no_grad()
def learn(
    settings: Galt, layer: Layer, inputs: list[Tensor], rotation_DD: Tensor | None
) -> Learned:
    """Learn the factors of one layer from its inputs at each scale step, [R, I] each.

    Raises:
        CalibrationError: the factors ran away (rate too high) or, linear, stopped being positive.
    """
    objective = Objective(layer, rotation_DD)
    parts = [ScaleData(x_RI, layer.weight_OI) for x_RI in inputs]
    linear = settings.parameter == "linear"
    ones_I = torch.ones(layer.weight_OI.shape[1], dtype=torch.float32)
    starts = [ones_I]
    if settings.start == "balance":
        starts += [balanced(layer.weight_OI, parts, power) for power in (0.25, 0.5)]
    errors = [objective.mean(parts, s_I) for s_I in starts]
    before, best = errors[0], min(range(len(starts)), key=lambda i: errors[i])
    best_I, after = starts[best], errors[best]
    parameter_I = torch.nn.Parameter(best_I.clone() if linear else best_I.log())
    optimiser = torch.optim.AdamW(
        [parameter_I], lr=settings.rate, weight_decay=settings.weight_decay
    )
    steps = settings.epochs * len(parts)
    for step in range(steps):
        if settings.schedule == "cosine":
            turn = 0.5 * (1 + math.cos(math.pi * step / steps))
            optimiser.param_groups[0]["lr"] = settings.rate * turn
        s_I = _checked(layer, parameter_I, settings)
        slope_I = objective(parts[step % len(parts)], s_I)[1]
        parameter_I.grad = slope_I / s_I if linear else slope_I
        optimiser.step()
        done = step + 1
        if done == steps or (not settings.last and done % (len(parts) * settings.check) == 0):
            s_I = _checked(layer, parameter_I, settings)
            error = objective.mean(parts, s_I)
            if error < after or settings.last:
                best_I, after = s_I, error
    return Learned(best_I, before, after)


def balanced(weight_OI: Tensor, parts: list[ScaleData], power: float) -> Tensor:
    """Factors [I] = (rms of the weight's column / rms of the input's channel) ** power.

    Errors of a quantizer spread evenly over a rotated group, so a group costs about
    `sum(x_i**2 s_i**2) * sum(w_i**2 / s_i**2)`, which is least at power 1/2. The geometric mean
    is 1, because a common factor changes nothing.
    """
    x_I = torch.stack([part.square_II.diagonal() / len(part.x_RI) for part in parts]).mean(0)
    w_I = weight_OI.square().mean(0)
    floor_x, floor_w = (float(v_I.max()) * 1e-6 + 1e-30 for v_I in (x_I, w_I))
    log_I = (w_I.clamp_min(floor_w).log() - x_I.clamp_min(floor_x).log()) * (power / 2)
    return (log_I - log_I.mean()).exp()


def _checked(layer: Layer, parameter_I: Tensor, settings: Galt) -> Tensor:
    linear = settings.parameter == "linear"
    s_I = parameter_I.detach().clone() if linear else parameter_I.detach().exp()
    sizes_I = s_I.abs() if settings.signed else s_I
    if not bool((sizes_I.isfinite() & (sizes_I > 0)).all()):
        raise CalibrationError(
            f"{layer.site}: learned factors reach {float(s_I.min()):g} and {float(s_I.max()):g}; "
            f"they must stay finite and {'other than' if settings.signed else 'above'} 0, use a "
            "smaller rate" + (" or parameter: log" if linear else "")
        )
    return s_I
