# SPDX-License-Identifier: Apache-2.0
"""Transformers between the unquantized model and the device, to see what each part costs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from lutvar.contract.accelerator import HEAD_DIM
from lutvar.contract.passes import ImageStep, Transformer
from lutvar.contract.quant_preset import QuantConfig
from lutvar.quant.golden.backend import GoldenBackend
from lutvar.quant.golden.pointwise import Float32, Half, fp16
from lutvar.quant.golden.transformer import GoldenTransformer, Span
from lutvar.quant.ptq.model import QuantizedModel
from lutvar.quant.ptq.transformer import QuantizedTransformer, quantize_transformer
from lutvar.quant.var import Var
from lutvar.quant.var.passes import FloatTransformer


class FloatHead(GoldenTransformer):
    """The device with the unquantized head on the FP16 output of its norm."""

    def __init__(self, model: QuantizedTransformer, var: Var) -> None:
        super().__init__(model)
        self._weight = var.head.weight.detach().float()
        self._bias = var.head.bias.detach().float()

    def classify(self, z: Half) -> Float32:
        """Logits of the unquantized head in float32, [rows, vocab]."""
        return F.linear(torch.from_numpy(z).float(), self._weight, self._bias).numpy()


class FloatAttention(FloatHead):
    """The same, and attention in float64 on FP16 values of q, k and v, rounded to FP16."""

    def __init__(self, model: QuantizedTransformer, var: Var) -> None:
        super().__init__(model, var)
        self._cache_values: dict[tuple[int, int, bool], NDArray[np.float64]] = {}

    def attention(self, i: int, y: Float32, spans: Sequence[Span]) -> Half:
        """From results of qkv, [rows, 3C], to attention's, [rows, C]."""
        heads = self.model.shape.heads
        values = fp16(y).astype(np.float64).reshape(-1, 3, heads, HEAD_DIM)
        values[:, :2] /= np.maximum(np.linalg.norm(values[:, :2], axis=-1, keepdims=True), 1e-12)
        values[:, 0] *= self.model.kappa[i].astype(np.float64)[:, None]
        result = np.empty((y.shape[0], heads, HEAD_DIM))
        for span in spans:
            key = i, span.slot, span.conditional
            values_so_far = values[span.rows]
            if span.position:
                values_so_far = np.concatenate([self._cache_values[key], values_so_far])
            self._cache_values[key] = values_so_far
            self._cache(span).length = span.end
            q, k, v = values_so_far[span.position :, 0], values_so_far[:, 1], values_so_far[:, 2]
            scores = np.einsum("nhd,lhd->hnl", q, k)
            p = np.exp2(scores - scores.max(-1, keepdims=True))
            result[span.rows] = np.einsum("hnl,lhd->nhd", p / p.sum(-1, keepdims=True), v)
        return fp16(result.reshape(y.shape[0], -1))


class QuantizedLinears:
    """The float model with the golden backend for the block linears alone."""

    def __init__(self, var: Var, layers: QuantizedModel) -> None:
        self.var, self.backend = var, GoldenBackend(layers)
        self._float = FloatTransformer(var)

    def run(self, steps: Sequence[ImageStep]) -> list[Float32]:
        """Logits of each step."""
        before = self.var.linear_backend
        self.var.linear_backend = self.backend
        try:
            return self._float.run(steps)
        finally:
            self.var.linear_backend = before


#: Name -> makes a fresh transformer. The last ones are the device with each format of q, k and v.
Variants = dict[str, Callable[[], Transformer]]


def variants(var: Var, config: QuantConfig) -> Variants:
    """Every step from the block linears alone to the device."""
    models = {f: quantize_transformer(var, config, f, progress=False) for f in ("E2M3", "E2M1")}
    wide, narrow = models["E2M3"], models["E2M1"]
    layers = QuantizedModel(config, wide.layers)
    return {
        "block linears": lambda: QuantizedLinears(var, layers),
        "+ norm, GELU, residual of the device": lambda: FloatAttention(wide, var),
        "+ attention on E2M3": lambda: FloatHead(wide, var),
        "+ attention on E2M1": lambda: FloatHead(narrow, var),
        "device, E2M3": lambda: GoldenTransformer(wide),
        "device, E2M1": lambda: GoldenTransformer(narrow),
    }
