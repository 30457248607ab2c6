# SPDX-License-Identifier: Apache-2.0
"""The array in other formats: as many rows as the LUTs allow, speeds from the cycle model."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from click.testing import CliRunner

from lutvar.cli.main import cli
from lutvar.contract.accelerator import load_accelerator
from lutvar.contract.costs import load_array_costs
from lutvar.contract.quant_preset import QuantConfig, load_quant
from lutvar.contract.shape import TransformerShape
from lutvar.hw.matrix.da_design import ENGINES
from lutvar.sim.model.compare import CASES, REFERENCE, compare, compare_text, equal_rows, lane_cost
from lutvar.sim.model.model import Estimator
from support.host.compile_cases import DIGITS, accelerator

INT8 = next(case for case in CASES if case.title == "INT8")
COSTS = [c for c in load_array_costs() if c.weight != "INT8"]


def test_the_presets_are_cases() -> None:
    for name, case in zip(("fp4", "fp6"), CASES, strict=False):
        made, own = QuantConfig.model_validate(case.quant()), load_quant(name)
        assert (made.weight, made.sites, made.ties) == (own.weight, own.sites, own.ties)


def test_rows_fit_the_luts() -> None:
    assert equal_rows(11.35 * 128 * 224, 11.35) == 224
    assert equal_rows(11.35 * 128 * 224, 22.7) == 112
    assert equal_rows(11.35 * 128 * 224, 11.36) == 208
    assert equal_rows(128 * 15, 1.0) == 0


def test_the_reference_is_the_configuration_itself() -> None:
    config = load_accelerator("vck190-fp4")
    shape = replace(TransformerShape.official("d16"), depth=2)
    lines = compare(config, shape, "d2", costs=COSTS, cases=CASES[:1])
    own = Estimator(config, shape, "d2").estimate("stagger")
    assert lines[0].rows == config.rows
    assert lines[0].images_per_second == pytest.approx(own.images_per_second)


def test_formats_at_equal_luts() -> None:
    config = accelerator("vck190-fp4", rows=64)
    shape = replace(TransformerShape.official("d16"), depth=1)
    costs = [
        replace(COSTS[0], form="da", weight=c.weight, plain=c.plain, dual=c.dual, lut=lut,
                engines=ENGINES)
        for c, lut in zip(CASES, (8.0, 16.0, 7.0, 20.0), strict=True)
    ]  # fmt: skip
    lines = {x.title: x for x in compare(config, shape, "d1", costs=costs)}
    budget = (lane_cost(REFERENCE, costs) or 0) * 128 * 64
    for line in lines.values():
        assert line.lut is not None and line.rows is not None and line.lut_lane is not None
        assert line.lut <= budget < line.lut + 16 * 128 * line.lut_lane + 1
        assert line.relative == pytest.approx(
            (line.images_per_second or 0) / (lines["FP4"].images_per_second or 1)
        )
    assert [lines[t].bits for t in ("FP4", "FP6", "INT4", "INT8")] == [4, 6, 4, 8]
    # INT4 needs one pass where FP4 needs two; INT8 has half the rows and half the weights a beat.
    assert (lines["INT4"].rows or 0) >= 64
    assert (lines["INT4"].relative or 0) > 1 > (lines["INT8"].relative or 1)


def test_few_rows_have_few_sections() -> None:
    """64 rows in four sections at four bits; two row groups of FP6 have two."""
    config = accelerator("vck190-fp4", rows=64, weight_ports=4, max_sections=4)
    costs = [
        replace(COSTS[0], form="da", weight=c.weight, plain=c.plain, dual=c.dual, lut=lut,
                engines=ENGINES)
        for c, lut in zip(CASES, (8.0, 16.0, 7.0, 20.0), strict=True)
    ]  # fmt: skip
    shape = replace(TransformerShape.official("d16"), depth=1)
    lines = {x.title: x for x in compare(config, shape, "d1", schedule="single", costs=costs)}
    assert (lines["FP6"].rows, lines["INT8"].rows) == (32, 16)
    assert all((line.images_per_second or 0) > 0 for line in lines.values())


def test_a_format_that_nobody_measured() -> None:
    config = accelerator("small-fp4", rows=64)
    lines = compare(config, DIGITS, "digits", costs=COSTS, cases=[REFERENCE, INT8])
    assert lines[1].lut_lane is None and lines[1].images_per_second is None
    text = compare_text(lines, config.name, "digits")
    assert "not measured" in text and "65 beats at 8 bits" in text and "modelled" in text
    with pytest.raises(ValueError, match="no cost"):
        compare(config, DIGITS, "digits", costs=[])


def test_command() -> None:
    arguments = ["estimate", "--compare", "--config", "small-fp4", "--set", "rows=32",
                 "--model", "digits", "--schedule", "single"]  # fmt: skip
    data = json.loads(CliRunner().invoke(cli, [*arguments, "--json"]).output)
    assert data["modelled"] is True and len(data["formats"]) == len(CASES)
    assert data["formats"][0]["rows"] == 32 and data["formats"][0]["relative"] == 1
    assert "LUT of a lane" in data["note"]
