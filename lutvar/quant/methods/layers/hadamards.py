# SPDX-License-Identifier: Apache-2.0
"""Hadamard rotations over a layer's full width, also where it is no power of two.

Source: QuaRot (arXiv:2404.00456), section 3 and appendix A: a Hadamard matrix of a width
2**k m is the Kronecker product of a Sylvester matrix and a known one of order m. Here the orders m
come from Paley's two constructions (R. Paley, "On orthogonal matrices", 1933), which cover every
width of VAR (1280 = 20 * 64, 1536 = 12 * 128, 1920 = 12 * 160 = 60 * 32, 2304 = 36 * 64).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from lutvar.quant.ptq.rotation import sylvester

from .layer import Layer


def _is_prime(n: int) -> bool:
    return n > 1 and all(n % d for d in range(2, math.isqrt(n) + 1))


def _jacobsthal(q: int) -> Tensor:
    """[q, q]: whether row minus column is a square modulo the prime q (1), not (-1), or 0."""
    squares = {i * i % q for i in range(1, q)}
    character = torch.tensor([0] + [1 if i in squares else -1 for i in range(1, q)])
    index = (torch.arange(q).unsqueeze(1) - torch.arange(q)) % q
    return character[index].double()


@cache
def paley(order: int) -> Tensor | None:
    """Hadamard matrix of this order with entries 1 and -1, float64, or None if Paley gives none."""
    if order == 1:
        return torch.ones(1, 1, dtype=torch.float64)
    if order % 4 == 0 and _is_prime(order - 1):
        q = order - 1
        skew = torch.zeros(order, order, dtype=torch.float64)
        skew[0, 1:], skew[1:, 0], skew[1:, 1:] = 1, -1, _jacobsthal(q)
        return skew + torch.eye(order, dtype=torch.float64)
    q = order // 2 - 1
    if order % 4 == 0 and q % 4 == 1 and _is_prime(q):
        conference = torch.zeros(q + 1, q + 1, dtype=torch.float64)
        conference[0, 1:], conference[1:, 0], conference[1:, 1:] = 1, 1, _jacobsthal(q)
        off = torch.tensor([[1, 1], [1, -1]], dtype=torch.float64)
        on = torch.tensor([[1, -1], [-1, -1]], dtype=torch.float64)
        return torch.kron(conference, off) + torch.kron(torch.eye(q + 1, dtype=torch.float64), on)
    return None


@cache
def hadamard_factors(width: int) -> tuple[Tensor, Tensor]:
    """Two orthogonal float64 matrices whose Kronecker product is Hadamard / sqrt(width).

    Raises:
        ValueError: no power of two times an order that Paley's constructions give.
    """
    twos = width & -width
    for power in range(twos.bit_length() - 1, -1, -1):
        order = width >> power
        small = paley(order)
        if small is None:
            continue
        # Even sizes of the two factors make the product of both cheap.
        left = 1
        while 2 * left * left * order <= 2**power:
            left *= 2
        a, b = torch.kron(small, sylvester(left)), sylvester(2**power // left)
        return a / math.sqrt(len(a)), b / math.sqrt(len(b))
    raise ValueError(
        f"no Hadamard matrix for {width} channels: it must be a power of two times 1 or an order "
        "p + 1 or 2(p + 1), p prime, that is a multiple of 4; use blocks instead (size: 128)"
    )


@dataclass(frozen=True)
class FullRotation:
    """x diag(signs) (A kron B), A kron B being Hadamard / sqrt(I)."""

    signs_I: Tensor
    a_AA: Tensor
    b_BB: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        rows = (x * self.signs_I.to(x.dtype)).unflatten(-1, (len(self.a_AA), len(self.b_BB)))
        return (self.a_AA.to(x.dtype).mT @ rows @ self.b_BB.to(x.dtype)).flatten(-2)

    def describe(self) -> str:
        """The operation in a few words, for reports."""
        return f"Hadamard rotation of all {len(self.signs_I)} channels"


def full_rotation(inputs: int, seed: int | None) -> FullRotation:
    """Hadamard rotation of all channels with signs from the seed, float64.

    Raises:
        ValueError: no such matrix for this width.
    """
    signs_I = torch.ones(inputs, dtype=torch.float32)
    if seed is not None:
        draw = torch.Generator().manual_seed(seed)
        signs_I = torch.randint(0, 2, (inputs,), generator=draw).float() * 2 - 1
    return FullRotation(signs_I, *hadamard_factors(inputs))


def rotate_fully(layer: Layer, seed: int | None) -> None:
    """Rotate input and weight by a Hadamard matrix of the layer's width, signs from the seed.

    Raises:
        ValueError: no such matrix for this width, or a weight that is rounded already.
    """
    layer.need_unrounded("a rotation")
    exact = full_rotation(layer.weight_OI.shape[1], seed)
    layer.weight_OI = exact(layer.weight_OI.double()).float()
    layer.operations.append(FullRotation(exact.signs_I, exact.a_AA.float(), exact.b_BB.float()))
