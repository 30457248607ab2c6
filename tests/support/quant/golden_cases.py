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
