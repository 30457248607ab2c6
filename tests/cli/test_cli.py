# SPDX-License-Identifier: Apache-2.0
"""The `lutvar` command: help, exit codes, error messages, JSON, and the quick commands for real."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import lutvar
from lutvar.cli.errors import BAD_INPUT, FAILED, describe
from lutvar.cli.main import COMMANDS, run
from lutvar.text import table


@pytest.mark.parametrize("name", [c.name for c in COMMANDS])
def test_every_command_explains_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([name, "--help"]) == 0
    text = capsys.readouterr().out
    assert f"Usage: lutvar {name}" in text
    assert "--debug" in text


def test_without_a_command_the_help_lists_all(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([]) == 0
    text = capsys.readouterr().out
    for command in COMMANDS:
        assert f"\n  {command.name} " in text


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == 0
    assert capsys.readouterr().out.strip() == f"lutvar {lutvar.__version__}"


def test_help_does_not_import_the_heavy_packages() -> None:
    """Help must come at once; torch alone takes seconds."""
    code = (
        "import sys; from lutvar.cli.main import run; run(['demo', '--help']); "
        "print([m for m in ('torch', 'amaranth', 'pydantic', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["nonsense"], "nonsense"),
        (["demo", "--nonsense"], "--nonsense"),
        (["generate", "--backend", "gpu"], "gpu"),
        (["quantize"], "--out"),
        (["verilog", "no-such-size", "-o", "unused"], "no-such-size"),
        (["verilog", "no/such/file.yaml", "-o", "unused"], "no/such/file.yaml"),
        (["quantize", "--preset", "fp5", "-o", "unused"], "fp5"),
        (["quantize", "--model", "no-such-model", "-o", "unused"], "no-such-model"),
        (["train", "--model", "no-such-plan"], "no-such-plan"),
        (["demo", "--config", "no-such-size", "-o", "unused"], "no-such-size"),
        (["generate", "--config", "no-such-size", "-o", "unused"], "no-such-size"),
        (["generate", "--slots", "0"], "--slots"),
        (["quality", "--preset", "fp5"], "fp5"),
        (["eval", "--recipe", "no-such-recipe"], "no-such-recipe"),
        (["eval", "--model", "no-such-model"], "no-such-model"),
        (["study", "speed"], "speed"),
        (["study", "--model", "no-such-model", "-o", "unused"], "no-such-model"),
        (["estimate", "--config", "no-such-size"], "no-such-size"),
        (["estimate", "--model", "no-such-model"], "no-such-model"),
        (["estimate", "--model", "digits", "--batch", "0"], "--batch"),
        (["estimate", "--clock", "0"], "--clock"),
        (["estimate", "--set", "rows"], "rows"),
        (["estimate", "--set", "rows=24"], "multiple of 16"),
        (["disassemble", "no-such-program"], "no-such-program"),
    ],
)
def test_bad_input_is_one_clear_line(
    arguments: list[str],
    part: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(arguments) == BAD_INPUT
    captured = capsys.readouterr()
    first = captured.err.splitlines()[0]
    assert first.startswith("error: ")
    assert part in first
    assert "Traceback" not in captured.err
    assert captured.out == ""
    assert list(tmp_path.iterdir()) == [], "nothing may be written after bad input"


def test_debug_shows_the_traceback(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run(["verilog", "no-such-size", "--debug", "-o", str(tmp_path)]) == BAD_INPUT
    text = capsys.readouterr().err
    assert "Traceback" in text
    assert "ConfigError" in text
    assert text.splitlines()[-1].startswith("error: ")


def test_own_errors_are_messages_and_defects_are_not() -> None:
    from lutvar.contract.quant_preset import ConfigError
    from lutvar.sim.tools import ToolError

    assert describe(ConfigError("a\n  b")) == ("a b", BAD_INPUT)
    assert describe(ToolError("no verilator")) == ("no verilator", FAILED)
    assert describe(FileNotFoundError(2, "No such file", "x.png")) == (
        "x.png: No such file",
        BAD_INPUT,
    )
    assert describe(ModuleNotFoundError("No module named 'cocotb'", name="cocotb")) == (
        "cocotb is not installed; run: pip install 'lutvar[sim]'",
        BAD_INPUT,
    )
    assert describe(ZeroDivisionError()) is None
    assert describe(KeyError("x")) is None


def test_value_errors_count_only_when_lutvar_raises_them() -> None:
    from lutvar.contract.formats import get_format

    with pytest.raises(ValueError) as own:
        get_format("E9M9")
    known = describe(own.value)
    assert known is not None
    assert "E9M9" in known[0]
    with pytest.raises(ValueError) as foreign:
        int("x")
    assert describe(foreign.value) is None


def test_doctor_reports_every_tool(capsys: pytest.CaptureFixture[str]) -> None:
    code = run(["doctor", "--json"])
    report = json.loads(capsys.readouterr().out)
    tools = {t["name"]: t for t in report["tools"]}
    assert {"python", "torch", "amaranth", "verilator", "icarus", "yosys", "cocotb"} <= set(tools)
    assert report["ready"] == (code == 0)
    assert report["ready"] == all(t["ok"] for t in report["tools"] if t["needed_for_demo"])
    for tool in report["tools"]:
        assert tool["ok"] or tool["without"], "a missing tool must say what is lost"


def test_doctor_fails_only_without_something_needed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from lutvar.sim import tools

    real = {t.name: t for t in tools.versions()}

    def missing(name: str) -> list[tools.Tool]:
        gone = tools.Tool(name, real[name].needed, None, None, False, real[name].without)
        return [gone if t.name == name else t for t in real.values()]

    monkeypatch.setattr(tools, "versions", lambda: missing("verilator"))
    assert run(["doctor"]) == FAILED
    out = capsys.readouterr().out
    assert "not ready" in out
    assert real["verilator"].without in out
    monkeypatch.setattr(tools, "versions", lambda: missing("icarus"))
    assert run(["doctor"]) == 0


def test_table_aligns() -> None:
    text = table(("a", "long head"), [("wider cell", 1), ("x", 22)])
    assert text.splitlines() == [
        "a           long head",
        "----------  ---------",
        "wider cell  1",
        "x           22",
    ]


def test_generate_float_is_reproducible(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from PIL import Image

    seen = []
    for name in ("a.png", "b.png"):
        out = tmp_path / "new" / name
        arguments = [
            "generate",
            "--backend",
            "float",
            "--class",
            "3",
            "--class",
            "7",
            "--zoom",
            "2",
        ]
        assert run([*arguments, "--seed", "5", "--json", "-o", str(out)]) == 0
        report = json.loads(capsys.readouterr().out)
        with Image.open(out) as image:
            assert image.size == (2 * 8 * 2, 22 + 8 * 2)  # the classes are above
        seen.append((report["tokens"], out.read_bytes()))
    assert seen[0] == seen[1]
    assert len(seen[0][0]) == 2


def test_generate_refuses_a_class_that_the_model_lacks(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["generate", "--backend", "float", "--class", "11", "-o", "unused.png"]) == BAD_INPUT
    assert "classes 0 to 9" in capsys.readouterr().err


def test_estimate_says_that_it_is_modelled(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["estimate", "--model", "digits", "--config", "small-fp4", "--schedule", "single"]
    assert run([*arguments, "--clock", "100", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["modelled"] is True and report["resources"]["modelled"] is True
    assert report["clock_mhz"] == 100
    assert [p["rows"] for p in report["passes"]] == [2, 8, 18, 32]
    cycles = sum(p["cycles"] for p in report["passes"])
    assert report["images_per_second"] == pytest.approx(100e6 / cycles)
    assert run([*arguments, "--set", "rows=32"]) == 0
    text = capsys.readouterr().out
    assert "modelled, not measured" in text
    assert "small-fp4-changed" in text, "a changed size has another name"


def test_quality_prints_what_was_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from lutvar.quant.eval import quality

    asked: list[object] = []

    def measure(_model: object, *arguments: object) -> list[quality.Quality]:
        asked.extend(arguments[:-1])
        return [quality.Quality("fp6", "device, E2M3", 0.0016, 0.976, 0.018, 0.998, 0.888)]

    monkeypatch.setattr(quality, "measure", measure)
    arguments = ["quality", "--preset", "fp6", "--images", "7", "--teacher", "3", "--seed", "4"]
    assert run(arguments) == 0
    assert asked == [["fp6"], 7, 3, 4]
    assert capsys.readouterr().out.splitlines()[-1].split("  ")[0] == "fp6"
    assert run([*arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["kl_nats"] == 0.0016
