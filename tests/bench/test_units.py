# SPDX-License-Identifier: Apache-2.0
"""Figures of the accelerator's units: one synthesis for all of them, and kept until it changes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lutvar.bench import measure, synth, units
from lutvar.bench.area import MAX_LEVELS
from lutvar.bench.synth import SynthesisError, SynthReport
from lutvar.contract import costs
from lutvar.contract.accelerator import load_accelerator
from lutvar.contract.unit_costs import load_points, save_point
from lutvar.hw.verilog import export_verilog
from lutvar.sim import tools

CONFIG = load_accelerator("small-fp4")
FOUND = tools.Tool("yosys", "0.40", "0.70", "yosys", True, "area figures")


def report(**changes: object) -> SynthReport:
    values = {
        "name": "lutvar_fetch", "tool": "Yosys 0", "family": "xcup", "luts": 700,
        "luts_packed": 600, "ffs": 1900, "carry": 9, "muxes": 0, "lutrams": 9,
        "lutram_sites": 72, "dsps": 2, "brams": 4, "levels": {0: 100, 3: 9, 7: 1},
        "cells": {"RAMB18E2": 3, "RAMB36E2": 1, "URAM288": 5},
    }  # fmt: skip
    return SynthReport(**{**values, **changes})  # type: ignore[arg-type]


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Stands in for Yosys; the texts that it was given."""
    seen: list[str] = []

    def count(verilog: str, top: str, **options: Any) -> SynthReport:
        assert options["flat"] is False and options["options"] == ()
        assert options["boxes"] == (("lutvar_row_group",) if top == "lutvar_matrix" else ())
        seen.append(verilog)
        return report()

    monkeypatch.setattr(units, "count_luts_verilog", count)
    monkeypatch.setattr(units, "synthesis_tool", lambda: FOUND)
    return seen


def test_a_unit_is_mapped_once(runs: list[str], tmp_path: Path) -> None:
    first = units.synthesise_unit("fetch", CONFIG, tmp_path)
    assert units.synthesise_unit("fetch", CONFIG, tmp_path) == first and len(runs) == 1
    assert (first.lut, first.lut_unpacked, first.max_levels) == (672, 772, 7)
    assert (first.ff, first.dsp, first.bram36, first.uram) == (1900, 2, 3, 5)
    assert costs.UnitCost.of(first.as_dict()) == first
    # Another size is another text, and so is another version of the tool another run.
    units.synthesise_unit("fetch", CONFIG.model_copy(update={"weight_fifo": 128}), tmp_path)
    assert len(runs) == 2 and runs[0] != runs[1]
    assert len(list(tmp_path.iterdir())) == 2


def test_another_tool_maps_again(
    runs: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    units.synthesise_unit("fetch", CONFIG, tmp_path)
    newer = tools.Tool("yosys", "0.40", "0.71", "yosys", True, "area figures")
    monkeypatch.setattr(units, "synthesis_tool", lambda: newer)
    units.synthesise_unit("fetch", CONFIG, tmp_path)
    assert len(runs) == 2


def test_lines_of_the_bench(
    runs: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    levels, area = units.measure("fetch", CONFIG, tmp_path)
    assert (levels.name, levels.value, levels.target) == ("levels: FETCH, small-fp4", 7, MAX_LEVELS)
    assert levels.met is False and levels.detail == {"at 0": 100, "at 3": 9, "at 7": 1}
    assert area.value == 672 and area.detail["DSP"] == 2 and area.detail["BRAM36"] == 3

    lane = units.measure("row_group", CONFIG, tmp_path)[-1]
    assert lane.name == "MATRIX lane with everything, small-fp4" and lane.target == 16
    assert lane.value == round(2 * 672 / (16 * 128), 2)  # what is there once, and one row group

    def fails(*_: Any, **__: Any) -> SynthReport:
        raise SynthesisError("no\nlog")

    monkeypatch.setattr(units, "count_luts_verilog", fails)
    (line,) = units.measure("fetch", CONFIG, tmp_path / "other")
    assert line.value is None and line.detail["error"] == "no"


def test_points_of_a_configuration(
    runs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`measure` adds a point with its fields, its command and the hash of its Verilog."""
    file, cache = tmp_path / "units.json", str(tmp_path / "cache")
    options = ["--file", str(file), "--cache", cache]
    measure.main(["small-fp4", "fetch", *options])
    measure.main(["small-fp4", "fetch", "--set", "weight_fifo=512", *options])
    first, second = load_points(file)
    assert [dict(p.fields)["weight_fifo"] for p in (first, second)] == [256, 512]
    assert second.command == "python -m lutvar.bench.measure small-fp4 fetch --set weight_fifo=512"
    assert len(runs) == 2 and first.cost.lut == 672
    assert first.verilog == units.verilog_hash("fetch", CONFIG) != second.verilog
    capsys.readouterr()
    measure.main(["small-fp4", "fetch", "front", "--list", *options])
    assert capsys.readouterr().out == (
        f"fetch: {first.cost.lut} LUT, synthesised\nfront: no figures\n"
    )
    save_point(replace(first, verilog="0"), file)
    measure.main(["small-fp4", "fetch", "--list", *options])
    assert "its Verilog has changed since" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["small-fp4", "nothing"], "unknown units nothing; known are sequencer"),
        (["nothing"], "unknown accelerator"),
        (["small-fp4", "--set", "row=16"], "must be KEY=VALUE with a key of"),
        (["small-fp4", "--set", "rows=5"], "rows"),
    ],
)
def test_wrong_measurements(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        measure.main(arguments)
    assert caught.value.code == 2 and message in capsys.readouterr().err


@pytest.mark.parametrize("name", ["control", "fetch"])
def test_units_can_be_exported(name: str) -> None:
    text = export_verilog(units.UNITS[name].make(CONFIG), f"lutvar_{name}")
    assert f"module lutvar_{name}(" in text


_SHARED = """
module lutvar_leaf(input clk, input rst, input [7:0] a, input [7:0] b, output [7:0] s);
  reg [7:0] s;
  always @(posedge clk) s <= a ^ b;
endmodule
module lutvar_gate(input [7:0] a, output y);
  assign y = ^a;
endmodule
module lutvar_top(input clk, input rst, input [31:0] a, input [31:0] b, output [3:0] y);
  wire [31:0] s;
%s
endmodule
"""


def _shared() -> str:
    lines = []
    for k in range(4):
        part = f"[{8 * k + 7}:{8 * k}]"
        lines += [
            f"  lutvar_leaf leaf_{k} (",
            f"    .clk(clk), .rst(rst), .a(a{part}), .b(b{part}), .s(s{part}));",
            f"  lutvar_gate gate_{k} (",
            f"    .a(s{part}), .y(y[{k}]));",
        ]
    return _SHARED % "\n".join(lines)


def test_modules_that_are_used_often() -> None:
    assert synth.shared_modules(_shared()) == ["lutvar_leaf", "lutvar_gate"]
    few = _shared().replace("lutvar_gate gate_3", "lutvar_other gate_3")
    assert synth.shared_modules(few) == ["lutvar_leaf"]


@pytest.mark.yosys
def test_levels_count_through_the_ports_of_shared_modules() -> None:
    """Eight bits are two levels, counted from the registers of the module before."""
    apart = synth.count_luts_verilog(_shared(), "lutvar_top", flat=False)
    # A gate of eight inputs is two or three LUTs, as the mapper likes.
    assert apart.ffs == 32 and apart.luts in (4 * (8 + 2), 4 * (8 + 3))
    assert apart.max_levels == 2 and apart.levels[2] == 4


@pytest.mark.yosys
def test_black_boxes_are_in_no_figure() -> None:
    """The registers of the leaves are gone; what is left are parities of eight of their outputs."""
    whole = synth.count_luts_verilog(_shared(), "lutvar_top", options=(), flat=False)
    rest = synth.count_luts_verilog(
        _shared(), "lutvar_top", options=(), flat=False, boxes=("lutvar_leaf",)
    )
    assert (whole.ffs, rest.ffs) == (32, 0)
    assert whole.luts == rest.luts + 32 and rest.luts == 4 * 3 and rest.max_levels == 2
