# SPDX-License-Identifier: Apache-2.0
"""Post-training quantization: weights to codes, whole models, files."""

from .files import QuantizedFileError
from .linear import QuantizationError, QuantizedLinear, quantize_linear
from .model import QuantizedModel, quantize_model
from .transformer import QuantizedTransformer, quantize_transformer

__all__ = [
    "QuantizationError",
    "QuantizedFileError",
    "QuantizedLinear",
    "QuantizedModel",
    "QuantizedTransformer",
    "quantize_linear",
    "quantize_model",
    "quantize_transformer",
]
