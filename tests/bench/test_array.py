# SPDX-License-Identifier: Apache-2.0
"""Costs of the array: the file that comes with the package, and how figures become costs."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from lutvar.bench import array
from lutvar.bench.area import MAX_LEVELS
from lutvar.bench.synth import SynthesisError, SynthReport
from lutvar.contract.costs import ArrayCost, load_array_costs
from lutvar.contract.quant_preset import GROUP, load_quant
from lutvar.hw.inspection import for_inspection
from lutvar.hw.matrix.da import DaRows
from lutvar.hw.matrix.da_design import DaDesign


def report(**changes: object) -> SynthReport:
    values = {
        "name": "lutvar_array", "tool": "Yosys 0", "family": "xcup", "luts": 4096,
        "luts_packed": 2048, "ffs": 1024, "carry": 1, "muxes": 0, "lutrams": 64,
        "lutram_sites": 512, "dsps": 0, "brams": 0, "levels": {1: 10, 3: 2}, "cells": {},
    }  # fmt: skip
    return SynthReport(**{**values, **changes})  # type: ignore[arg-type]


def test_cases_of_the_file_keep_their_targets() -> None:
    known = {(c.form, c.weight, c.plain, c.dual): c for c in load_array_costs()}
    assert len(known) == len(load_array_costs())
    # What the presets build is there; a comparison may still have to be measured.
    assert {("da", "E2M1", "E2M1", "DUAL4"), ("da", "E2M3", "E2M3", "DUAL6")} <= set(known)
    for case in array.cases():
        cost = known.get((case.form, case.weight, case.plain, case.dual))
        if cost is None:
            continue
        assert cost.rows == case.rows
        assert cost.lutram < cost.lut <= cost.lut_mapped
        assert cost.max_levels <= MAX_LEVELS
        assert case.target is None or cost.lut <= case.target


@pytest.mark.parametrize("name", ["fp4", "fp6"])
def test_the_file_has_the_design_s_cycles(name: str) -> None:
    quant = load_quant(name)
    rows = DaRows(DaDesign(quant.weight_format, quant.plain_format, quant.dual_format))
    for_inspection(rows)
    (cost,) = (
        c for c in load_array_costs()
        if (c.form, c.weight) == ("da", quant.weight) and c.dual
    )  # fmt: skip
    assert (cost.latency, cost.fill) == (rows.latency, rows.fill)


def test_costs_are_for_each_lane(tmp_path: Path) -> None:
    case = array.ArrayCase("da", "E2M1", "E2M1", "DUAL4", target=1.5)
    cost = array._cost(case, report(), 12, 196)
    lanes = 16 * GROUP
    assert (cost.lut, cost.lut_mapped) == (2560 / lanes, round(4608 / lanes, 3))
    assert (cost.lutram, cost.ff, cost.max_levels) == (0.25, 0.5, 3)
    array.save_costs([cost], tmp_path / "costs.json")
    assert load_array_costs(tmp_path / "costs.json") == [cost]


def test_lines_of_the_bench(monkeypatch: pytest.MonkeyPatch) -> None:
    case = array.ArrayCase("table", "E2M1", "E2M1", target=10)
    cost = array._cost(case, report(), 9, 1)
    monkeypatch.setattr(array, "synthesise", lambda case: dataclasses.replace(cost, rows=1))
    lut, levels = array.measure(case)
    assert (lut.value, lut.met, levels.value, levels.met) == (20.0, False, 3, True)

    def fails(case: array.ArrayCase) -> ArrayCost:
        raise SynthesisError("no\nlog")

    monkeypatch.setattr(array, "synthesise", fails)
    (line,) = array.measure(case)
    assert line.value is None and line.detail["error"] == "no"
