# SPDX-License-Identifier: Apache-2.0
"""Finding tools: versions as programs print them, old and missing tools, the wheel's launcher."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path

import pytest

from lutvar.sim import tools


@pytest.mark.parametrize(
    "text, version",
    [
        ("Verilator 5.048 2026-05-16 rev v5.048", (5, 48)),
        ("Icarus Verilog version 11.0 (stable) ()", (11, 0)),
        ("Yosys 0.40+45 (git sha1 abc, clang 14.0.0)", (0, 40)),
        ("g++ (Debian 12.2.0-14) 12.2.0", (12, 2, 0)),
        (" rev vUNKNOWN-built20260516-4e853d8", None),
        ("", None),
    ],
)
def test_versions_are_read_from_program_output(text: str, version: tuple[int, ...] | None) -> None:
    assert tools.parse_version(text) == version


def _program(folder: Path, name: str, output: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\necho '{output}'\n")
    path.chmod(path.stat().st_mode | stat.S_IEXEC)


@pytest.fixture
def only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is the whole PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return folder


def test_missing_and_old_tools_are_refused_with_a_hint(only: Path) -> None:
    tool = tools.icarus()
    assert not tool.ok and tool.found is None and tool.path is None
    with pytest.raises(tools.ToolError, match=r"icarus was not found; version 11\.0 .* Do this\."):
        tool.require("Do this.")
    _program(only, "iverilog", "Icarus Verilog version 10.3 (stable)")
    tool = tools.icarus()
    assert not tool.ok and tool.found == "10.3"
    with pytest.raises(tools.ToolError, match=r"icarus is 10\.3"):
        tool.require("")
    _program(only, "iverilog", "Icarus Verilog version 12.0 (stable)")
    assert tools.icarus().require("").path == str(only / "iverilog")


def test_a_new_system_verilator_comes_first(only: Path) -> None:
    for name, output in (("g++", "g++ 12.2.0"), ("make", "make"), ("verilator", "Verilator 5.040")):
        _program(only, name, output)
    tool = tools.verilator(only)
    assert tool.ok and tool.path == str(only / "verilator") and tool.environment == {}
    _program(only, "verilator", "Verilator 5.006")
    tool = tools.verilator(only)  # too old, and without Perl the wheel cannot start
    assert not tool.ok and tool.found == "5.006"


def test_verilator_needs_a_compiler(only: Path) -> None:
    _program(only, "verilator", "Verilator 5.040")
    assert not tools.verilator().ok
    assert not tools.compiler().ok


def test_the_wheels_launcher_reports_a_version_and_starts_verilator(tmp_path: Path) -> None:
    tool = tools.verilator(tmp_path)
    if not tool.environment:
        pytest.skip("the system's Verilator is in use, or none")
    assert tool.path is not None

    def ask(*arguments: str) -> str:
        done = subprocess.run(
            ["perl", tool.path, *arguments],  # type: ignore[list-item]
            env={**os.environ, **tool.environment}, capture_output=True, text=True, check=True,
        )  # fmt: skip
        return done.stdout

    assert tools.parse_version(ask("--version")) >= tools.VERILATOR_NEEDED  # type: ignore[operator]
    assert "--lint-only" in ask("--help")
    before = Path(tool.path).stat().st_mtime_ns
    assert tools.verilator(tmp_path).path == tool.path
    assert Path(tool.path).stat().st_mtime_ns == before, "the launcher was written again"


def test_every_tool_says_what_is_lost_without_it() -> None:
    rows = [tool.as_dict() for tool in tools.versions()]
    assert {"verilator", "icarus", "yosys", "cocotb", "amaranth"} <= {r["name"] for r in rows}
    assert all(r["without"] and r["needed"] for r in rows)
    assert "environment" not in rows[0]
