# SPDX-License-Identifier: Apache-2.0
"""Figures of units from synthesised sizes: the size itself, a mean of others, or none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lutvar.contract.accelerator import AcceleratorConfig
from lutvar.contract.unit_costs import (
    UNIT_FIELDS,
    UnitPoint,
    estimate_unit,
    load_points,
    save_point,
    unit_fields,
)
from support.host.compile_cases import accelerator
from support.sim.explore import cost


def attend(rows: int, dsp_rows: int, lut: int, dsp: int, **changes: object) -> UnitPoint:
    config = accelerator(
        "vck190-fp4", attention_rows=rows, attention_dsp_rows=dsp_rows, **changes
    )  # fmt: skip
    return UnitPoint("attend", unit_fields("attend", config), "", "", cost(lut, dsp))


#: 10,000 LUT, 6,000 a query row; one size with a row in multipliers.
PLANE = [
    attend(2, 0, 22_000, 100), attend(2, 1, 21_000, 132), attend(12, 0, 82_000, 500),
]  # fmt: skip


def size(rows: int, dsp_rows: int, **changes: object) -> AcceleratorConfig:
    return accelerator(
        "vck190-fp4", attention_rows=rows, attention_dsp_rows=dsp_rows, **changes
    )  # fmt: skip


def test_every_field_is_one_of_the_accelerator() -> None:
    known = set(AcceleratorConfig.model_fields) | {"max_sections"}
    for unit, fields in UNIT_FIELDS.items():
        assert set(fields.all) <= known, unit
        assert len(set(fields.all)) == len(fields.all), unit


def test_a_synthesised_size_is_taken_as_it_is() -> None:
    found = estimate_unit("attend", size(2, 1), PLANE)
    assert found is not None and found.how == "synthesised" and found.source == "Yosys"
    assert found.amounts["lut"] == 21_000 and found.amounts["dsp"] == 132 and found.levels == 1


def test_sizes_between_lie_on_the_line() -> None:
    found = estimate_unit("attend", size(7, 0), PLANE)
    assert found is not None and found.how == "interpolated" and "2 sizes" in found.source
    assert found.amounts["lut"] == pytest.approx(52_000)
    assert found.amounts["dsp"] == pytest.approx(300)
    beyond = estimate_unit("attend", size(22, 0), PLANE)
    assert beyond is not None and beyond.how == "extrapolated"
    assert beyond.amounts["lut"] == pytest.approx(10_000 + 22 * 6_000)


def test_minor_fields_change_the_label_alone() -> None:
    found = estimate_unit("attend", size(2, 0, max_keys=1000), PLANE)
    assert found is not None and found.how == "near" and found.amounts["lut"] == 22_000
    nearer = [*PLANE, attend(2, 0, 23_000, 100, max_keys=1000)]
    found = estimate_unit("attend", size(2, 0, max_keys=1000), nearer)
    assert found is not None and found.how == "synthesised" and found.amounts["lut"] == 23_000


def test_what_the_points_do_not_say() -> None:
    assert estimate_unit("attend", size(3, 0), PLANE[:1]) is None  # one size has no slope
    assert estimate_unit("attend", size(3, 1), PLANE) is None
    assert estimate_unit("attend", size(2, 2), PLANE) is None
    assert estimate_unit("attend", size(2, 0, kv_format="E2M1"), PLANE) is None
    assert estimate_unit("front", size(2, 0), PLANE) is None
    assert estimate_unit("attend", size(7, 0), [PLANE[0], PLANE[2]]) is not None


def test_points_come_back_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "units.json"
    assert load_points(path) == []
    for point in (*PLANE, attend(2, 0, 5, 5)):
        save_point(point, path)
    found = load_points(path)
    assert len(found) == 3  # the last took the place of the first
    assert estimate_unit("attend", size(2, 0), found).amounts["lut"] == 5  # type: ignore[union-attr]
    assert [point["unit"] for point in json.loads(path.read_text())["points"]] == ["attend"] * 3


def test_what_comes_with_the_package() -> None:
    points = load_points()
    assert {point.unit for point in points} == set(UNIT_FIELDS)
    for point in points:
        assert set(point.fields) <= set(UNIT_FIELDS[point.unit].all)
        assert point.cost.levels and point.cost.lut > 0 and "Yosys" in point.cost.source
        assert point.command.startswith("python -m lutvar.bench.measure ")
