# SPDX-License-Identifier: Apache-2.0
"""Rows of activations and layers of arbitrary codes, for tests of the golden model."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from lutvar.contract.formats import get_format
from lutvar.quant.ptq.linear import QuantizedLinear
from lutvar.quant.var.sites import LinearSite


def random_groups(seed: int, rows: int) -> np.ndarray:
    """Rows of 128 patterns: normal data, wide ranges, one-signed, short (many ties), subnormal."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((rows, 128))
    x[1::6] *= np.exp2(rng.uniform(-16, 12, (len(x[1::6]), 128)))
    x[2::6] = np.abs(x[2::6])
    x[3::6] = -np.abs(x[3::6])
    x[4::6] = np.round(x[4::6] * 8) * 105 / 64
    x[5::6] *= 2.0**-15
    return x.astype(np.float16).view(np.uint16)


def special_groups(top: int) -> np.ndarray:
    """Groups at the edges of two terms: rows of patterns."""
    halves = np.arange(128) * 0.5 % (top + 0.5)
    alone, small = np.zeros(128), np.full(128, 2.0**-24)
    alone[77] = -3.7
    small[5] = 2.0**-14
    nearly = np.full(128, 6 / top)  # all on the grid but for some last bits
    nearly[0], nearly[1] = 6, np.float16(6 / top) + 2.0**-11
    tiny = np.linspace(-1, 1, 128) * 2.0**-13  # the second scale is below the normal numbers
    edge = np.linspace(-1, 1, 128) * top * 2.0**-12
    dominated = np.full(128, 60000.0)
    dominated[1:] = np.linspace(-20, 20, 127)
    rows = [
        np.zeros(128), -np.zeros(128), np.full(128, 2.0**-15), small, tiny, edge,
        np.where(np.arange(128) % 2, -halves, halves), np.full(128, float(top)), alone, nearly,
        dominated, np.linspace(-65504, 65504, 128), np.full(128, 65504.0),
    ]  # fmt: skip
    rows[6][0] = top  # decision points, met exactly
    return np.stack(rows).astype(np.float16).view(np.uint16)


def make_layer(
    activation: str, weight: str, outputs: int, groups: int, seed: int, **changes: object
) -> QuantizedLinear:
    """A layer of arbitrary codes and scales (subnormal, zero and largest ones included)."""
    rng = np.random.default_rng(seed)
    fmt = get_format(weight)
    scales = rng.integers(1, 0x6800, (outputs, groups)).astype(np.uint16)
    scales[rng.random(scales.shape) < 0.2] = 0
    scales[0] = 0x67FF
    scales[-1] = rng.integers(1, 0x400, groups)
    bias = (rng.standard_normal(outputs) * np.exp2(rng.integers(-40, 20, outputs))).astype("f4")
    bias[1] = 0
    layer = QuantizedLinear(
        site=LinearSite(0, "fc2"),
        codes=rng.choice(np.array(fmt.codes_used, np.uint8), (outputs, groups * 128)),
        scales=scales,
        exponent=-18,
        bias=bias,
        weight_format=fmt,
        activation_format=get_format(activation),
        rotate=False,
    )
    return replace(layer, **changes)  # type: ignore[arg-type]
