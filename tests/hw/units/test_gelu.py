# SPDX-License-Identifier: Apache-2.0
"""The gate of GELU against the contract's integer function."""

import numpy as np

from lutvar.contract.functions import GELU_FRACTION, GELU_INDEX, GELU_ONE, GELU_STEP, gelu_factor
from lutvar.hw.units.gelu import GeluGate
from support.hw.pipeline import run_pipeline


def check(values: np.ndarray) -> None:
    values = np.asarray(values, np.float32)
    vectors = [{"x": int(pattern)} for pattern in values.view(np.uint32)]
    got = run_pipeline(GeluGate(), vectors, ("y",), GeluGate.LATENCY)
    patterns = np.array([row[0] for row in got], np.uint32)
    want = (gelu_factor(values) * 2.0**-GELU_ONE).astype(np.float32).view(np.uint32)
    wrong = np.flatnonzero(patterns != want)
    assert not wrong.size, (values[wrong[:5]], patterns[wrong[:5]], want[wrong[:5]])


def test_every_segment() -> None:
    """Start, middle and end of each segment, both signs, and one place around."""
    steps = np.arange(1 << GELU_INDEX)[:, None] * (1 << GELU_STEP) + [0, 1, 255, 256, 511]
    values = (steps * 2.0**-GELU_FRACTION).astype(np.float32).ravel()
    below = np.nextafter(values, np.float32(-1), dtype=np.float32)
    below = below[(below == 0) | (np.abs(below) >= 2.0**-126)]
    check(np.concatenate([values, -values, below]))


def test_ends() -> None:
    values = [
        0.0,
        -0.0,
        8.0,
        -8.0,
        np.nextafter(np.float32(8), np.float32(0)),
        2.0**100,
        -(2.0**90),
    ]
    values += [-np.nextafter(np.float32(8), np.float32(0)), 2.0**-80, -(2.0**-80), 2.0**-126]
    values += [s * 2.0**e for e in range(-20, 5) for s in (1, -1)]
    values += [s * 2.0**e * 1.9999999 for e in range(-20, 5) for s in (1, -1)]
    check(np.array(values))


def test_random() -> None:
    rng = np.random.default_rng(1)
    near = rng.normal(0, 3, 4000)
    any_size = rng.normal(size=1500) * 2.0 ** rng.integers(-80, 84, 1500)
    check(np.concatenate([near, any_size]))
