# SPDX-License-Identifier: Apache-2.0
"""The output error of a layer as a function of its rounded weight, from second moments.

With x the prepared input and q its quantized version, the mean squared error of the output,
`mean |q R^T - x W^T|**2`, is a quadratic function of the rounded weight R. Three matrices hold
all of it, whatever the number of samples. GPTQ calls the first of them (times 2) the Hessian
(arXiv:2210.17323, section 3.1).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from lutvar.quant.methods.errors import CalibrationError
from lutvar.quant.methods.layers.layer import Block, BlockData, Layer
from lutvar.quant.var.sites import SiteName

#: How rows count: every token the same, or every scale step the same (coarse ones have few tokens).
Weighting = Literal["token", "scale"]


@dataclass(frozen=True)
class Moments:
    """Second moments of a layer's input, float32.

    Attributes:
        quantized_II: mean of q^T q.
        mixed_II: mean of q^T x.
        plain_II: mean of x^T x.
    """

    quantized_II: Tensor
    mixed_II: Tensor
    plain_II: Tensor

    def gradient(self, rounded_OI: Tensor, weight_OI: Tensor) -> Tensor:
        """Half the gradient of `loss` for the rounded weight, [O, I]."""
        return rounded_OI @ self.quantized_II - weight_OI @ self.mixed_II.mT

    def loss(self, rounded_OI: Tensor, weight_OI: Tensor) -> float:
        """Mean over rows of the squared error, summed over outputs."""
        r, w = rounded_OI.double(), weight_OI.double()
        square = ((r @ self.quantized_II.double()) * r).sum()
        cross = ((r @ self.mixed_II.double()) * w).sum()
        target = ((w @ self.plain_II.double()) * w).sum()
        return float(square - 2 * cross + target)


def pieces(data: BlockData, name: SiteName) -> list[tuple[int, Tensor]]:
    """(scale step, input [B, l, I]) of a linear; AdaLN linears have one piece for all steps."""
    x, total = data.inputs[name], data.scales[-1][1]
    if x.shape[1] == 1 and total > 1:
        return [(0, x)]
    missing = total - x.shape[1]  # the token embedding starts at the second scale
    return [
        (k, x[:, a - missing : b - missing]) for k, (a, b) in enumerate(data.scales) if b > missing
    ]


def require_data(block: Block, layer: Layer, method: str) -> BlockData:
    """The block's data, if it is enough to fit this layer to.

    Raises:
        CalibrationError: fewer rows than the layer has inputs; for AdaLN linears, which see one
            vector for each class, classes that no sample has.
    """
    data = block.data
    if data is None:
        raise CalibrationError(f"{method}: {layer.site} needs calibration samples; give some")
    x = data.inputs[layer.site.name]
    rows, inputs = x.shape[0] * x.shape[1], layer.weight_OI.shape[1]
    if x.shape[1] == 1:
        classes = set(data.labels_B.tolist())
        lacking = sorted(set(range(max(classes))) - classes)
        if lacking:
            raise CalibrationError(
                f"{method}: {layer.site} sees one vector for each class and the samples lack "
                f"classes {', '.join(map(str, lacking[:10]))}"
                f"{', ...' if len(lacking) > 10 else ''}; give at least {max(classes)} samples"
            )
    elif rows < inputs:
        needed = math.ceil(inputs / (2 * x.shape[1]))
        raise CalibrationError(
            f"{method}: {layer.site} has {inputs} inputs and the calibration data {rows} rows "
            f"({x.shape[0] // 2} samples); give at least {needed} samples"
        )
    return data


@torch.no_grad()
def layer_moments(
    block: Block, layer: Layer, method: str, weighting: Weighting = "token"
) -> Moments:
    """Moments of a layer's prepared input on the block's calibration data.

    Raises:
        CalibrationError: too little data (`require_data`).
    """
    parts = pieces(require_data(block, layer, method), layer.site.name)
    inputs, rows = layer.weight_OI.shape[1], sum(x.shape[0] * x.shape[1] for _, x in parts)
    sums = [torch.zeros(inputs, inputs, dtype=torch.float32) for _ in range(3)]
    for scale_index, piece_BlI in parts:
        prepared = layer.prepared(piece_BlI)
        x_NI = prepared.flatten(0, 1)
        share = 1 / rows if weighting == "token" else 1 / (len(parts) * len(x_NI))
        plain_II = (x_NI.mT @ x_NI) * share
        sums[2] += plain_II
        if layer.activation is None:
            sums[0] += plain_II
            sums[1] += plain_II
            continue
        q_NI = layer.activation(prepared, scale_index).flatten(0, 1)
        sums[0] += (q_NI.mT @ q_NI) * share
        sums[1] += (q_NI.mT @ x_NI) * share
    return Moments(*sums)
