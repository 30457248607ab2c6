# SPDX-License-Identifier: Apache-2.0
"""The promise of every `parallel_case` in whole accelerators."""

from __future__ import annotations

from collections.abc import Iterator

from lutvar.sim.formal.property import Property

#: Each form of product and both widths of code. The large ones are made of the same modules;
#: exporting them takes longer than the proof.
CONFIGS = ("small-fp4", "small-da-fp4", "small-dsp-fp4", "small-fp6")


def properties() -> Iterator[Property]:
    """All of this file."""
    for name in CONFIGS:
        yield Property(
            f"selects.{name}", f"every module of {name}",
            "no two selects of a `parallel_case` are 1 together, whatever registers hold",
            lambda: None, None, depth=0, whole=name, seconds=400,
        )  # fmt: skip
