# SPDX-License-Identifier: Apache-2.0
"""The integers that are summed, against the contract's function."""

from __future__ import annotations

import numpy as np

from lutvar.contract.column_sums import LIMIT, integers
from lutvar.hw.units.fp32_to_fixed import Fp32ToFixed
from support.hw.pipeline import run_pipeline


def check(values: np.ndarray) -> None:
    values = np.asarray(values, np.float32)
    vectors = [{"x": int(pattern)} for pattern in values.view(np.uint32)]
    got = np.array(
        run_pipeline(Fp32ToFixed(), vectors, ("magnitude", "negative"), Fp32ToFixed.LATENCY)
    )
    found = np.where(got[:, 1] == 1, -got[:, 0], got[:, 0])
    want = integers(values)
    wrong = np.flatnonzero(found != want)
    assert not wrong.size, (values[wrong[:5]], found[wrong[:5]], want[wrong[:5]])


def test_halves_and_their_neighbours() -> None:
    """Each shift: whole numbers, halves, and one place around, of both parities."""
    n = np.concatenate([np.arange(70), *(2**k + np.arange(-2, 3) for k in range(7, 24))])
    steps = np.concatenate([n, n + 0.5, n + 0.25, n + 0.75]).astype(np.float32) / np.float32(1024)
    around = [np.nextafter(steps, np.float32(side)) for side in (-1e9, 1e9)]
    values = np.concatenate([steps, *around])
    check(np.concatenate([values, -values]))


def test_limits_zeros_and_subnormals() -> None:
    top = np.float32(LIMIT / 1024)
    edges = [0.0, 1e-45, 1.1e-38, 2.0**-12, 2.0**-11, 2.0**-126, 8191.9995, 8192.0, 3e38, top]
    edges += [np.nextafter(top, np.float32(0)), np.nextafter(top, np.float32(1e9)), np.inf]
    values = np.array(edges, np.float32)
    check(np.concatenate([values, -values]))


def test_random_of_every_exponent() -> None:
    rng = np.random.default_rng(1)
    patterns = rng.integers(0, 1 << 32, 3000, dtype=np.uint64).astype(np.uint32)
    patterns = patterns[(patterns >> 23 & 255) != 255]
    near = rng.integers(110, 145, 4000) << 23 | rng.integers(0, 1 << 23, 4000)
    near |= rng.integers(0, 2, 4000) << 31
    check(np.concatenate([patterns, near.astype(np.uint32)]).view(np.float32))
