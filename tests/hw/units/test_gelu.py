# SPDX-License-Identifier: Apache-2.0
"""The gates of GELU and SiLU against the contract's integer functions."""

import numpy as np

from lutvar.contract.functions import (
    GELU_FRACTION,
    GELU_INDEX,
    GELU_ONE,
    GELU_STEP,
    SILU_FRACTION,
    gelu_factor,
    silu_factor,
)
from lutvar.hw.units.gelu import GeluGate
from support.hw.pipeline import run_pipeline


def check(values: np.ndarray) -> None:
    values = np.asarray(values, np.float32)
    vectors = [{"x": int(pattern)} for pattern in values.view(np.uint32)]
    compare(GeluGate(), vectors, values, gelu_factor(values))


def compare(gate: GeluGate, vectors: list, values: np.ndarray, factor: np.ndarray) -> None:
    got = run_pipeline(gate, vectors, ("y",), GeluGate.LATENCY)
    patterns = np.array([row[0] for row in got], np.uint32)
    want = (factor * 2.0**-GELU_ONE).astype(np.float32).view(np.uint32)
    wrong = np.flatnonzero(patterns != want)
    assert not wrong.size, (values[wrong[:5]], patterns[wrong[:5]], want[wrong[:5]])


def segments(fraction: int) -> np.ndarray:
    """Start, middle and end of each segment, both signs, and one place around."""
    steps = np.arange(1 << GELU_INDEX)[:, None] * (1 << GELU_STEP) + [0, 1, 255, 256, 511]
    values = (steps * 2.0**-fraction).astype(np.float32).ravel()
    below = np.nextafter(values, np.float32(-1), dtype=np.float32)
    below = below[(below == 0) | (np.abs(below) >= 2.0**-126)]
    return np.concatenate([values, -values, below])


def test_every_segment() -> None:
    check(segments(GELU_FRACTION))


def test_gates_of_both_tables_and_of_one() -> None:
    """GELU, SiLU and a gate of 1 in turn at random: what one value takes is not the next one's."""
    rng = np.random.default_rng(2)
    ends = [0.0, -0.0, 16.0, -16.0, 15.999999, -15.999999, 8.0, -8.0, 2.0**90, -(2.0**90), 2.0**-90]
    values = np.concatenate(
        [segments(SILU_FRACTION), np.array(ends * 9), rng.normal(0, 6, 3000)]
    ).astype(np.float32)  # fmt: skip
    values = values[rng.permutation(len(values))]
    other, one = (
        rng.integers(0, 2, len(values)) | (rng.random(len(values)) < 0.5),
        rng.integers(0, 2, len(values)),
    )
    vectors = [
        {"x": int(x), "other": int(a), "one": int(b)}
        for x, a, b in zip(values.view(np.uint32), other, one, strict=True)
    ]
    silu = np.where(one == 1, 1 << GELU_ONE, silu_factor(values))
    compare(GeluGate(silu=True), vectors, values, np.where(other == 1, silu, gelu_factor(values)))


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
