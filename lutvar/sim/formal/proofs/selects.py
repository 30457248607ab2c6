# SPDX-License-Identifier: Apache-2.0
"""One-hot multiplexers of whole accelerators."""

from __future__ import annotations

from collections.abc import Iterator

from lutvar.sim.formal.property import Property

#: The others are made of the same modules; exporting them takes longer than the proof.
CONFIGS: tuple[str, ...] = ()


def properties() -> Iterator[Property]:
    """All of this file."""
    for name in CONFIGS:
        yield Property(
            f"selects.{name}", f"every module of {name}",
            "no two selects of a one-hot multiplexer are 1 together, whatever registers hold",
            lambda: None, None, depth=0, whole=name, seconds=400,
        )  # fmt: skip
