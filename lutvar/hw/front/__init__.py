# SPDX-License-Identifier: Apache-2.0
"""FRONT: rows from memory through LayerNorm, Hadamard and quantizer to an activation bank."""

from .unit import FrontUnit

__all__ = ["FrontUnit"]
