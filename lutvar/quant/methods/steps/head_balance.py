# SPDX-License-Identifier: Apache-2.0
"""Values of each attention head in the basis in which quantizing them costs least, in two weights.

Between qkv and proj any invertible matrix M of a head is free, not only the rotation of QuaRot
(arXiv:2404.00456, section 4, stage 1c): attention mixes tokens, so value rows times M and columns
of proj times its inverse leave proj's output what it was.

With X the second moment of a head's values, W its columns of proj, F what errors of proj's output
cost (`importance`) and G = W^T F W, the error of a quantizer behind a rotation is about
`tr(M X M^T) tr(M^-T G M^-1)`. It is least where both are the same diagonal matrix (Moore,
Principal component analysis in linear systems, 1981: balancing). The same matrix suits the rounding
of both weights. FlatQuant (arXiv:2410.09426) learns such matrices; here there is a closed form.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from lutvar.contract.names import Seed
from lutvar.quant.methods.calibration.moments import require_data
from lutvar.quant.methods.layers.layer import Block
from lutvar.quant.methods.layers.operations import hadamard_matrix
from lutvar.quant.methods.layers.value_layers import fold_values, value_layers
from lutvar.quant.var.sites import SiteName

from .base import StepBase, register_step


@register_step("head-balance")
class HeadBalance(StepBase):
    """Multiplies values by R M: M balances, R = (diag(d) H / sqrt(head width))^T spreads evenly.

    Attributes:
        seed: of the signs d; None for none.
        damping: added to both matrices' diagonals, relative to their mean.
        objective: "logits" counts errors of proj's output by their effect on the logits
            (`importance`), "output" counts all outputs the same.
    """

    reads_data: ClassVar[bool] = True

    seed: Seed | None = 42
    damping: float = Field(default=1e-3, gt=0)
    objective: Literal["logits", "output"] = "logits"

    @property
    def needs_importance(self) -> tuple[SiteName, ...]:
        """Linears whose output importance the step asks for."""
        return ("proj",) if self.objective == "logits" else ()

    @torch.no_grad()
    def apply(self, block: Block) -> None:
        if block.heads is None:
            return
        _, proj = value_layers(block, self.step)
        require_data(block, proj, self.step)
        assert block.data is not None
        width, heads = proj.weight_OI.shape[1], block.heads
        head = width // heads
        x_BLHc = block.data.inputs["proj"].unflatten(-1, (heads, head)).double()
        columns_OHc = proj.weight_OI.double().unflatten(1, (heads, head))
        counted_OHc = columns_OHc
        if self.objective == "logits":
            fisher_OO = block.data.importance["proj"].double()
            counted_OHc = torch.einsum("po,ohc->phc", fisher_OO, columns_OHc)
        spread_cc = hadamard_matrix(head, self.seed).mT
        maps, inverses, gains = [], [], []
        for h in range(heads):
            x_Nc = x_BLHc[:, :, h].flatten(0, 1)
            gram_cc = columns_OHc[:, h].mT @ counted_OHc[:, h]
            balance = balancing(x_Nc.mT @ x_Nc / len(x_Nc), gram_cc, self.damping)
            maps.append(spread_cc @ balance.map_cc)
            inverses.append(balance.inverse_cc @ spread_cc.mT)
            gains.append(balance.gain)
        fold_values(block, torch.stack(maps), torch.stack(inverses))
        shown = ", ".join(f"{gain:.3f}" for gain in gains)
        proj.notes.append(f"{self.step}: expected error of each head times {shown}")


class Balance:
    """M with `M X M^T = M^-T G M^-1` diagonal, its inverse, and what it gains.

    Attributes:
        map_cc, inverse_cc: M and its inverse, float64.
        gain: `tr(M X M^T) tr(M^-T G M^-1) / (tr X tr G)`.
    """

    def __init__(self, moment_cc: Tensor, gram_cc: Tensor) -> None:
        root_cc = torch.linalg.cholesky(moment_cc)  # X = L L^T
        values_c, vectors_cc = torch.linalg.eigh(root_cc.mT @ gram_cc @ root_cc)  # U s**2 U^T
        quarter_c = values_c.clamp_min(float(values_c.max()) * 1e-12).pow(0.25)
        inverse_root_cc = torch.linalg.inv(root_cc)
        self.map_cc = quarter_c.unsqueeze(1) * (vectors_cc.mT @ inverse_root_cc)
        self.inverse_cc = (root_cc @ vectors_cc) / quarter_c
        common = float(quarter_c.square().sum())
        self.gain = common**2 / float(moment_cc.trace() * gram_cc.trace())


def balancing(moment_cc: Tensor, gram_cc: Tensor, damping: float) -> Balance:
    """Balance two positive semidefinite matrices, made definite by a part of their mean."""
    return Balance(*(_damped(matrix, damping) for matrix in (moment_cc, gram_cc)))


def _damped(matrix_cc: Tensor, damping: float) -> Tensor:
    added = damping * float(matrix_cc.diagonal().mean()) or 1.0
    return matrix_cc + added * torch.eye(len(matrix_cc), dtype=matrix_cc.dtype)
