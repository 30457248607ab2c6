# SPDX-License-Identifier: Apache-2.0
"""Tiles cover each map, and banks hold each window for as long as they can."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from lutvar.contract.accelerator import load_accelerator
from lutvar.contract.decoder import Conv, DecoderShape
from lutvar.contract.terms import Terms
from lutvar.host.compile.decoder.banks import Window, hold, part_slices, uses
from lutvar.host.compile.decoder.tiling import loads, tilings
from support.host.compile_cases import accelerator

OFFICIAL = DecoderShape.official()
ONE, TWO = Terms(1, 1), Terms(2, 2)
FINE = Conv("fine", "a", "x", 160, 160, 256)
DOUBLE = Conv("double", "a", "x", 64, 64, 16, double=True)
SHORT = Conv("short", "a", "x", 64, 32, 8, shortcut="c", shortcut_name="s", shortcut_inputs=96)
WIDE = Conv("wide", "a", "x", 640, 640, 32)


@pytest.mark.parametrize("config", ["vck190-fp4", "vck190-fp6", "small-fp4"])
def test_tiles_cover_the_map(config: str) -> None:
    size = load_accelerator(config)
    for conv in OFFICIAL.convolutions:
        found = list(tilings(conv, size))
        assert found
        for tiling in found:
            assert tiling.rows <= size.rows
            assert tiling.width * tiling.across == conv.rows
            assert tiling.bands * tiling.lines >= conv.side > (tiling.bands - 1) * tiling.lines


def total(conv: Conv, terms: Terms, banks: int, groups: int = 30) -> list[tuple[int, int, int]]:
    """(tiles below one another, pieces of a line, loads of all slices) of each tiling."""
    config = accelerator("vck190-fp4", act_banks=banks, bank_groups=groups)
    return [
        (t.lines, t.across, sum(loads(conv, terms, config, t).values()))
        for t in tilings(conv, config)
    ]


@pytest.mark.parametrize("banks", [2, 3, 4, 8])
def test_a_window_is_loaded_once_where_two_banks_hold_it(banks: int) -> None:
    for lines, across, count in total(FINE, TWO, banks):
        assert count == across * (lines + 2)
    for lines, across, count in total(DOUBLE, TWO, banks):
        assert count == across * (lines + 2)


def test_windows_in_slices_are_loaded_as_often_as_banks_need() -> None:
    narrow = accelerator("vck190-fp4", act_banks=4, bank_groups=18)
    assert [part.groups for part in part_slices(WIDE.groups, TWO, narrow)] == [7, 8]
    for lines, across, count in total(WIDE, TWO, 3, 18):
        assert across * 2 * (lines + 2) < count <= across * 2 * 3 * 2 * lines
    for lines, across, count in total(WIDE, TWO, 4, 18):
        assert count == across * 2 * (lines + 2)


def test_shortcuts_have_windows_of_their_own() -> None:
    config = accelerator("small-fp4", bank_groups=8, max_width=512)
    products = list(uses(SHORT, TWO, config, 0, 3))
    assert len(products) == 3 * 4 * 2
    assert [p.layer for p in products[:8]] == [0, 0, 1, 1, 2, 2, 3, 3]
    assert [p.window.shortcut for p in products[:8]] == [False] * 6 + [True] * 2
    assert [p.number for p in products[:8]] == [0, 1] * 4
    assert [p.window.line for p in products[:8]] == [-1, -1, 0, 0, 1, 1, 0, 0]
    assert [p.first for p in products].count(True) == 3 == [p.last for p in products].count(True)


def test_the_order_of_sums_is_the_contracts() -> None:
    """for part: for set of weights: for group."""
    config = accelerator("small-fp4", bank_groups=4)
    products = list(uses(Conv("c", "a", "x", 128, 128, 4), TWO, config, 0, 1))
    order = [(p.layer, p.number, p.window.part.first) for p in products]
    assert order == list(itertools.product((0, 1, 2), (0, 1), (0, 1)))
    assert order == sorted(order)
    doubled = [(p.half, p.layer, p.window.line) for p in uses(DOUBLE, ONE, config, 0, 1)]
    assert doubled == [(0, 0, -1), (0, 1, 0), (1, 2, 0), (1, 3, 1)]


@pytest.mark.parametrize("banks", [2, 3, 5])
def test_a_bank_holds_what_was_loaded_last(banks: int) -> None:
    """Against random sequences: a product reads its own window, and no schedule loads less."""
    rng: Any = np.random.default_rng(banks)
    parts = part_slices(4, ONE, accelerator("small-fp4"))
    for _ in range(40):
        windows = [Window(False, 0, int(line), parts[0]) for line in rng.integers(0, 7, size=12)]
        contents: dict[int, Window] = {}
        count = 0
        for window, held in zip(windows, hold(windows, banks), strict=True):
            if held.load:
                assert window not in contents.values()
                contents[held.bank] = window
                count += 1
            assert contents[held.bank] == window and 0 <= held.bank < banks
        assert count == fewest(tuple(windows), banks)


def fewest(windows: tuple[Window, ...], banks: int) -> int:
    """The fewest loads that any choice of banks gives."""
    states = {frozenset[Window](): 0}
    for window in windows:
        following: dict[frozenset[Window], int] = {}
        for held, count in states.items():
            if window in held:
                choices = {held: count}
            elif len(held) < banks:
                choices = {held | {window}: count + 1}
            else:
                choices = {held - {other} | {window}: count + 1 for other in held}
            for state, loads_ in choices.items():
                following[state] = min(loads_, following.get(state, loads_))
        states = following
    return min(states.values())
