# SPDX-License-Identifier: Apache-2.0
"""Distributed arithmetic in the 4-bit formats, and how it spreads lanes over tables."""

from __future__ import annotations

import numpy as np
import pytest
from da_bench import (
    CASES,
    check_extremes_and_single_lanes,
    check_random_operands_at_any_pace,
    design,
)

from lutvar.contract.accelerator import LANES
from lutvar.contract.config import GROUP
from lutvar.hw.rows.da_design import DaDesign
from lutvar.hw.rows.da_heap import levels_of
from lutvar.quant.formats import get_format


def test_extremes_and_single_lanes() -> None:
    check_extremes_and_single_lanes("fp4")


def test_random_operands_at_any_pace() -> None:
    check_random_operands_at_any_pace("fp4")


@pytest.mark.parametrize("engines", [1, 3, 5, 7, 13])
@pytest.mark.parametrize("name", CASES)
def test_design_covers_each_lane_once(name: str, engines: int) -> None:
    d = design(name, engines)
    assert sorted(d.order) == list(range(GROUP))
    assert [t.first for t in d.tables] == list(np.cumsum([0, *(len(t.lanes) for t in d.tables)]))[
        :-1
    ]
    for number, engine in enumerate(d.engines):
        mine = [t for t in d.tables if t.engine == number]
        assert [t.turn for t in mine] == list(range(len(mine)))
        for table, addresses in zip(mine, engine.addresses, strict=True):
            for lane, address in zip(table.lanes, addresses, strict=True):
                word, phase = divmod(address, d.phases)
                assert lane == word * LANES + engine.positions[phase]
    assert d.turns == -(-26 // engines)


def test_counters_end_at_two() -> None:
    assert levels_of([2, 2]) == 0
    assert levels_of([3, 2, 0, 0]) == 2  # the carry makes a third bit there
    assert levels_of([6, 0, 0]) == 1
    with pytest.raises(ValueError, match="same width"):
        DaDesign(get_format("E2M1"), get_format("INT8"))
    with pytest.raises(ValueError, match="engines"):
        design("fp4", 17)
