# SPDX-License-Identifier: Apache-2.0
"""The group-wise Hadamard transform in float64 (QuIP#, arXiv:2402.04396; FPQVAR, arXiv:2505.16335).

Every group of 128 along the last axis is multiplied by `diag(d) H`, H being the Sylvester
matrix `H[i][j] = (-1)**popcount(i & j)` and d the shared sign vector. H is symmetric, so the
same function serves activations and weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

from lutvar.contract.quant_preset import GROUP


@cache
def sylvester(size: int = GROUP) -> Tensor:
    """[size, size] Sylvester-Hadamard matrix in float64; size a power of two."""
    if size < 1 or size & (size - 1):
        raise ValueError(f"Hadamard matrix of size {size}: the size must be a power of two")
    matrix = torch.ones(1, 1, dtype=torch.float64)
    while matrix.shape[0] < size:
        matrix = torch.cat((torch.cat((matrix, matrix), 1), torch.cat((matrix, -matrix), 1)))
    return matrix


def signed_hadamard(x: Tensor, signs: Sequence[int]) -> Tensor:
    """`x diag(d) H` for each group along the last axis, not normalised, float64.

    Args:
        x: [..., I] float64, I a multiple of 128.
        signs: 128 entries +1 or -1.
    """
    matrix = sylvester() * torch.tensor(signs, dtype=torch.float64).unsqueeze(1)
    return (x.reshape(-1, GROUP) @ matrix).reshape(x.shape)
