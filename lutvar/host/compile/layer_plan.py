# SPDX-License-Identifier: Apache-2.0
"""One linear in memory: its tiles of outputs, its slices of inputs, and their weight panels."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from lutvar.contract.accelerator import BEAT_BYTES, STRIPE, WEIGHT_BLOCK
from lutvar.contract.quant_preset import GROUP
from lutvar.contract.terms import Terms


@dataclass(frozen=True)
class WeightTile:
    """Outputs `first .. first + outputs - 1` of a layer, computed in one accumulator bank.

    Attributes:
        first, outputs: columns; multiples of 128.
        offset: byte offset of the first panel in MODEL; the others follow.
        first_beats, beats: beats of the first panel of a slice and of each other one.
    """

    first: int
    outputs: int
    offset: int
    first_beats: int
    beats: int

    @property
    def blocks(self) -> int:
        """Blocks of 32 outputs."""
        return self.outputs // WEIGHT_BLOCK


class InputSlice(NamedTuple):
    """Groups of 128 inputs of a layer that are multiplied at a time."""

    first: int
    groups: int
    last: bool


class Panel(NamedTuple):
    """A weight panel of a tile: its group of inputs, where it lies, its beats."""

    group: int
    offset: int
    beats: int


@dataclass(frozen=True)
class LayerPlan:
    """One linear layer: I = 128 * groups inputs, O outputs (padded to a multiple of 128).

    `slices`: its inputs in parts that fit an activation bank. The first panel of each has place
    for biases, though only those of the first slice, and of the first set of weights, are used.
    """

    name: str
    site: str
    groups: int
    outputs: int
    rotate: bool
    dual: bool
    terms: Terms
    tiles: tuple[WeightTile, ...]
    slices: tuple[InputSlice, ...]

    @property
    def passes(self) -> int:
        """Passes over each panel: 2 for a dual format and for inputs in two terms, else 1."""
        return 2 if self.dual else self.terms.inputs

    @property
    def array_passes(self) -> int:
        """Passes of the array over each group of inputs, those of all sets of weights."""
        return self.terms.weights * self.passes

    def panel_bytes(self, tile: WeightTile) -> int:
        """Bytes of a tile's panels, each counted once; those of all sets."""
        return self.terms.weights * self._set_bytes(tile)

    def _set_bytes(self, tile: WeightTile) -> int:
        return slices_bytes(self.slices, tile.first_beats, tile.beats)

    def slice_offset(self, tile: WeightTile, part: InputSlice, number: int = 0) -> int:
        """Byte offset in MODEL of the first panel of a slice of a set; the others follow."""
        before = self.slices[: self.slices.index(part)]
        start = tile.offset + number * self._set_bytes(tile)
        return start + slices_bytes(before, tile.first_beats, tile.beats)

    def panels(self, tile: WeightTile, part: InputSlice, number: int = 0) -> list[Panel]:
        """The panels of a slice of a set of weights, in their order in memory."""
        at = self.slice_offset(tile, part, number)
        panels = []
        for group in range(part.first, part.first + part.groups):
            beats = tile.beats if group > part.first else tile.first_beats
            panels.append(Panel(group, at, beats))
            at += beats * BEAT_BYTES
        return panels


def slices_bytes(slices: Sequence[InputSlice], first_beats: int, beats: int) -> int:
    """Bytes of a tile's panels: beats of the first of each slice, and of the others."""
    return sum(first_beats + (s.groups - 1) * beats for s in slices) * BEAT_BYTES


def split_inputs(groups: int, max_groups: int) -> tuple[InputSlice, ...]:
    """Slices of at most `max_groups` groups, as equal as can be."""
    count = -(-groups // max_groups)
    edges = [groups * i // count for i in range(count + 1)]
    return tuple(InputSlice(a, b - a, b == groups) for a, b in itertools.pairwise(edges))


def padded(outputs: int) -> int:
    """The next multiple of 128."""
    return -(-outputs // GROUP) * GROUP


def split_outputs(outputs: int, depth: int, sections: int = 1) -> list[tuple[int, int]]:
    """(first, count) of tiles of at most `depth` outputs, multiples of 128, as equal as can be.

    All but the last are multiples of `sections` stripes, where that fits: no section is idle then.
    """
    unit = STRIPE * sections if depth >= STRIPE * sections else STRIPE
    units, max_units = -(-outputs // unit), depth // unit
    count = -(-units // max_units)
    edges = [min(units * i // count * unit, outputs) for i in range(count + 1)]
    return [(a, b - a) for a, b in itertools.pairwise(edges)]
