# SPDX-License-Identifier: Apache-2.0
"""The properties, one file for each group."""

from __future__ import annotations

from collections.abc import Iterable

from lutvar.sim.formal.property import Property

from . import (
    bursts,
    control,
    credit,
    dispatch,
    places,
    ports,
    post,
    queues,
    selects,
    sequencer,
    steps,
    sums,
    terms,
    unpack,
    weights,
)


def _by_name(*groups: Iterable[Property]) -> dict[str, Property]:
    found: dict[str, Property] = {}
    for group in groups:
        for item in group:
            if item.name in found:
                raise ValueError(f"two properties are named {item.name}")
            found[item.name] = item
    return found


#: Name -> property, in the order of tables.
PROPERTIES = _by_name(
    control.properties(),
    bursts.properties(),
    ports.properties(),
    credit.properties(),
    places.properties(),
    queues.properties(),
    sequencer.properties(),
    weights.properties(),
    dispatch.properties(),
    unpack.properties(),
    terms.properties(),
    steps.properties(),
    post.properties(),
    sums.properties(),
    selects.properties(),
)
