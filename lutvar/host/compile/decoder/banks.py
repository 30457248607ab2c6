# SPDX-License-Identifier: Apache-2.0
"""Which activation bank holds which window, and when it is loaded.

A tile's windows of one line are the lower line's of the tile above and the upper line's of the one
below, so that a window which stays in its bank serves three tiles. The order of all products is
known, so each load takes the bank whose contents are needed last, or never again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from lutvar.contract.accelerator import AcceleratorConfig
from lutvar.contract.decoder import Conv
from lutvar.contract.terms import Terms
from lutvar.host.compile.layer_plan import InputSlice, split_inputs


class Window(NamedTuple):
    """A slice of the windows of a tile's lines, what an activation bank holds.

    Attributes:
        shortcut: of the shortcut's map.
        across: which piece of the lines.
        line: of the map, that of band 0; -1 is in the border.
        part: the slice.
    """

    shortcut: bool
    across: int
    line: int
    part: InputSlice


class Use(NamedTuple):
    """One product of a tile: a window with a set of weights.

    Attributes:
        window: what it reads.
        tile: its line of band 0, from 0 on.
        half: line of the target that the line makes; 1 only where the map is doubled.
        layer: index of the weights; the shortcut's is the last.
        number: set of the weights.
        first, last: of the products of these sums.
    """

    window: Window
    tile: int
    half: int
    layer: int
    number: int
    first: bool
    last: bool


def part_slices(groups: int, terms: Terms, config: AcceleratorConfig) -> tuple[InputSlice, ...]:
    """Slices of a window, each of which a bank holds."""
    return split_inputs(groups, config.bank_groups // terms.inputs)


def uses(
    conv: Conv, terms: Terms, config: AcceleratorConfig, across: int, lines: int
) -> Iterator[Use]:
    """The products of a column of tiles, in order: `lines` tiles below one another.

    The order of the sums of a tile is the contract's: part, set of weights, slice of the groups.
    """
    own = part_slices(conv.groups, terms, config)
    sets = range(terms.weights)
    for tile in range(lines):
        for half, parts in enumerate(conv.parts):
            found = [
                (Window(False, across, tile + line, part), index, number)
                for line, index in parts
                for number in sets
                for part in own
            ]
            if conv.shortcut:
                straight = part_slices(conv.shortcut_groups, terms, config)
                last = 1 + max(index for _, index in parts)
                found += [
                    (Window(True, across, tile, part), last, number)
                    for number in sets
                    for part in straight
                ]
            for i, (window, index, number) in enumerate(found):
                yield Use(window, tile, half, index, number, i == 0, i == len(found) - 1)


class Held(NamedTuple):
    """Where a product finds its window; `load`: it is loaded first."""

    bank: int
    load: bool


def hold(windows: Sequence[Window], banks: int) -> list[Held]:
    """A bank for the window of each product, in their order."""
    never = len(windows)
    following = [never] * len(windows)
    seen: dict[Window, int] = {}
    for i in range(len(windows) - 1, -1, -1):
        following[i] = seen.get(windows[i], never)
        seen[windows[i]] = i
    held: dict[Window, int] = {}
    needed, used = [never] * banks, list(range(-banks, 0))  # next and last use of each bank
    owner: list[Window | None] = [None] * banks
    found = []
    for i, window in enumerate(windows):
        load = window not in held
        if load:
            # Among those that nobody needs again, the one that has been free for longest.
            bank = max(range(banks), key=lambda b: (needed[b], -used[b]))
            evicted = owner[bank]
            if evicted is not None:
                del held[evicted]
            held[window], owner[bank] = bank, window
        bank = held[window]
        needed[bank], used[bank] = following[i], i
        found.append(Held(bank, load))
    return found
