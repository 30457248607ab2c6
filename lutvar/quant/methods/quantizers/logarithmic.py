# SPDX-License-Identifier: Apache-2.0
"""Logarithmic quantizers for values in [0, scale]: probabilities, and post-GELU after a shift.

Sources: log2 and log sqrt 2 as in RepQ-ViT (arXiv:2212.08254, section 3.4); adaptive base in table
form, AdaLog (arXiv:2407.12951, section 3.2); shift-uniform-log2, I&S-ViT (arXiv:2311.10126,
section 3.2). All but the last are a table of 2**bits values.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

#: Denominator of AdaLog's bases 2**(q / 37).
BASE = 37
#: What AdaLog adds to the output of GELU before its logarithm: just above the minimum's magnitude.
GELU_SHIFT = 0.16997124254703522
#: Shifts that I&S-ViT tries.
ETAS = (0.001, 0.005, 0.01, 0.02, 0.03, 0.04, 0.05, 0.1, 0.2, 0.5, 1.0)


def safe_log2(x: Tensor) -> Tensor:
    """log2 of x, with everything below 1e-15 (also what is negative) as 1e-15."""
    return torch.log2(x.clamp_min(1e-15))


@lru_cache(maxsize=256)
def _levels(kind: str, bits: int, q: int) -> tuple[float, ...]:
    codes = range(2**bits)
    if kind == "log2":
        return tuple(2.0**-c for c in codes)
    if kind == "log-sqrt2":
        # An exact shift, and one constant for odd codes.
        return tuple(2.0 ** -((c + 1) // 2) * (math.sqrt(2) if c % 2 else 1.0) for c in codes)
    fine = 2 ** (bits + 1) - 2
    return tuple(
        2.0 ** -(c * q // BASE) * (round(2 ** (-(c * q % BASE) / BASE) * fine) / fine)
        for c in codes
    )


@dataclass(frozen=True)
class LogTable:
    """Codes `round(-log(x / scale))` in some base; codes past the last are 0.

    Attributes:
        kind: "log2" (base 2), "log-sqrt2" (base sqrt 2) or "adalog" (base 2**(q / 37)).
        bits: bits of a code.
        q: of the base, for "adalog".
        scale: value of code 0; larger values saturate.
    """

    kind: str
    bits: int
    q: int = BASE
    scale: float = 1.0

    @property
    def octaves(self) -> float:
        """Octaves that one code covers."""
        return {"log2": 1.0, "log-sqrt2": 0.5}.get(self.kind, self.q / BASE)

    def values(self) -> Tensor:
        """Value of each code, then 0 for everything below; [2**bits + 1]."""
        return (
            torch.tensor((*_levels(self.kind, self.bits, self.q), 0.0), dtype=torch.float32)
            * self.scale
        )

    def from_log(self, log: Tensor) -> Tensor:
        """Fake-quantize values given as log2 x (search loops take the logarithm once)."""
        codes = torch.round((math.log2(self.scale) - log) / self.octaves)
        return self.values()[codes.clamp_(0, 2**self.bits).to(torch.int32)]

    def __call__(self, x: Tensor) -> Tensor:
        """Fake-quantize x; values up to 0 become 0."""
        return self.from_log(safe_log2(x))


@dataclass(frozen=True)
class ShiftUniformLog2:
    """Powers of two of a uniform code: `2**round(c scale + low) - eta`, c from log2(x + eta).

    Attributes:
        eta: shift before the logarithm.
        low: smallest logarithm, code 0.
        high: largest logarithm, the last code.
        bits: bits of a code.
    """

    eta: float
    low: float
    high: float
    bits: int

    @classmethod
    def fit(cls, x: Tensor, bits: int, etas: tuple[float, ...] = ETAS) -> ShiftUniformLog2:
        """The shift with the smallest squared error on x >= 0."""
        best: ShiftUniformLog2 | None = None
        best_error = math.inf
        for eta in etas:
            log = torch.log2(x + eta)
            candidate = cls(eta, float(log.min()), float(log.max()), bits)
            error = float((candidate(x) - x).square().mean())
            if best is None or error < best_error:
                best, best_error = candidate, error
        assert best is not None
        return best

    def __call__(self, x: Tensor) -> Tensor:
        """Fake-quantize x >= 0."""
        last = 2**self.bits - 1
        scale = (self.high - self.low) / last or 1.0
        code = torch.round((torch.log2(x + self.eta) - self.low) / scale).clamp_(0, last)
        return torch.exp2(torch.round(code * scale + self.low)) - self.eta
