# SPDX-License-Identifier: Apache-2.0
"""Post-training quantization: weights to codes, whole models."""

from .linear import QuantizedLinear, quantize_linear
from .model import QuantizedModel, quantize_model
from .transformer import QuantizedTransformer, quantize_transformer
from .weights import QuantizationError

__all__ = [
    "QuantizationError",
    "QuantizedLinear",
    "QuantizedModel",
    "QuantizedTransformer",
    "quantize_linear",
    "quantize_model",
    "quantize_transformer",
]
