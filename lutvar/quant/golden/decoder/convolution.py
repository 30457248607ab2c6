# SPDX-License-Identifier: Apache-2.0
"""A convolution at code level: windows quantized once, parts added in order (contract, 14)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lutvar.quant.golden.activations import ActivationCodes
from lutvar.quant.golden.fp16 import values_of
from lutvar.quant.golden.linear import GoldenLinear
from lutvar.quant.golden.pointwise import Float32, add, store

from .maps import ActivatedMap
from .weights import ConvWeights


class GoldenConvolution:
    """A convolution prepared for many calls."""

    def __init__(self, weights: ConvWeights) -> None:
        self.conv = weights.conv
        self._parts = [GoldenLinear(layer) for layer in weights.parts]
        self._shortcut = None if weights.shortcut is None else GoldenLinear(weights.shortcut)

    def __call__(
        self,
        source: ActivatedMap,
        shortcut: ActivatedMap | None = None,
        residual: Float32 | None = None,
    ) -> Float32:
        """Raw map [B, S', S', C] of the target; `residual` is one of its shape."""
        conv, B = self.conv, source.images
        lines = self._quantized(self._parts[0], source, conv.taps, conv.groups)
        if self._shortcut is not None:
            assert shortcut is not None
            straight = self._quantized(self._shortcut, shortcut, 1, conv.shortcut_groups)
        height = 2 if conv.double else 1
        result = np.empty((B, conv.side, height, conv.rows * conv.columns), np.float32)
        above = (conv.taps - 1) // 2
        for row, parts in enumerate(conv.parts):
            y = None
            for line, index in parts:
                rows = slice(above + line, above + line + conv.side)
                y, _ = self._parts[index].multiply(_lines(lines, rows), start=y)
            if self._shortcut is not None:
                y, _ = self._shortcut.multiply(_lines(straight, slice(None)), start=y)
            assert y is not None
            result[:, :, row] = y.reshape(B, conv.side, -1)
        side = conv.side * height
        y_BSSC = result.reshape(B, side, side, -1)
        return store(y_BSSC, 1.0) if residual is None else add(residual, y_BSSC, 1.0)

    def _quantized(
        self, layer: GoldenLinear, source: ActivatedMap, taps: int, groups: int
    ) -> ActivationCodes:
        """Codes and scales of all windows, [B, lines, rows, ...]."""
        windows = source.windows(self.conv.span, taps, groups)
        flat = np.ascontiguousarray(windows).reshape(-1, windows.shape[-1])
        _, codes = layer.quantize(values_of(flat))
        return _each(codes, lambda x: x.reshape(*windows.shape[:3], -1))


def _lines(codes: ActivationCodes, lines: slice) -> ActivationCodes:
    """Rows of some lines, [rows, ...]."""
    return _each(codes, lambda x: x[:, lines].reshape(-1, x.shape[-1]))


def _each(
    codes: ActivationCodes, change: Callable[[NDArray[Any]], NDArray[Any]]
) -> ActivationCodes:
    """The same with every array changed; those that are None stay."""
    arrays: Any = (None if x is None else change(x) for x in codes)
    return ActivationCodes(*arrays)
