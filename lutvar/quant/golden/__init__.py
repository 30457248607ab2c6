# SPDX-License-Identifier: Apache-2.0
"""The golden model: the accelerator's arithmetic at the level of codes, on the CPU."""

from .activations import ActivationCodes, hadamard_fp16, quantize_activations
from .backend import FakeQuantBackend, GoldenBackend
from .fp16 import to_fp16
from .linear import GoldenLinear, GoldenResult, linear
from .transformer import GoldenTransformer

__all__ = [
    "ActivationCodes",
    "FakeQuantBackend",
    "GoldenBackend",
    "GoldenLinear",
    "GoldenResult",
    "GoldenTransformer",
    "hadamard_fp16",
    "linear",
    "quantize_activations",
    "to_fp16",
]
