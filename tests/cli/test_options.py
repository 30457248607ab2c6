# SPDX-License-Identifier: Apache-2.0
"""Options that would be ignored are errors; devices, pipes and readers that stop."""

from __future__ import annotations

import gc
import subprocess
import sys
import warnings
from pathlib import Path

import click
import pytest
import torch

from lutvar.cli import main
from lutvar.cli.errors import BAD_INPUT, FAILED
from lutvar.cli.main import BROKEN_PIPE, run


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["estimate", "--table", "--compare"], "--table and --compare exclude each other"),
        (
            ["estimate", "--table", "--batch", "3"],
            "--table (all schedules) makes no use of --batch",
        ),
        (["estimate", "--table", "--model", "d16"], "makes no use of --model"),
        (["estimate", "--config", "vck190", "--schedule", "batch"], "no use of --schedule"),
        (["estimate", "--config", "vck190", "--compare"], "vck190 is a board with vck190-fp4"),
        (["estimate", "--schedule", "single", "--batch", "2"], "no use of --batch"),
        (["generate", "--backend", "float", "--config", "small-fp6"], "no use of --config"),
        (["eval", "--weights", "x.pth"], "--protocol own makes no use of --weights"),
        (["study", "agreement", "--model", "digits"], "makes no use of --model"),
        (["quantize", "--outliers", "1", "-o", "x.safetensors"], "give --recipe"),
        (["estimate", "--compare", "--preset", "fp4-single"], "makes no use of --preset"),
        (["estimate", "--table", "--sections", "2"], "makes no use of --sections"),
        (["estimate", "--compare", "--tile-rows", "16"], "makes no use of --tile-rows"),
        (["estimate", "--sections", "3"], "sections is 3; vck190-fp4 has"),
        (["estimate", "--tile-rows", "100"], "it must be a multiple of 16 up to"),
        (
            ["estimate", "--set", "weight_ports=2", "--set", "max_sections=4"],
            "each section takes a weight port of its own",
        ),
        (["study", "sections"], "small-fp4 has no sections; --config one with max_sections"),
        (["estimate", "--preset", "fp6-single"], "vck190-fp4 runs fp4; quantize with fp4"),
        (["estimate", "--set", "name=mine"], "KEY=VALUE with a key of quant,"),
        (["coverage", "tiny-fp4", "--page", "README.md"], "makes no use of CONFIG"),
        (["coverage", "--page", "README.md", "--match", "a"], "makes no use of --match"),
        (["coverage", "--page", "README.md", "--json"], "makes no use of --json"),
        (["formal", "--list", "--mutants"], "makes no use of --mutants"),
        (["formal", "--list", "--page", "README.md"], "makes no use of --page"),
        (["evidence", "--page", "README.md", "--again"], "makes no use of --again"),
        (["evidence", "--page", "README.md", "--json"], "makes no use of --json"),
        (["evidence", "--list", "--again"], "makes no use of --again"),
        (["evidence", "--dry-run", "--json"], "makes no use of --json"),
        (["results", "--page", "--jobs", "2"], "makes no use of --jobs"),
        (["results", "--list", "--jobs", "2"], "makes no use of --jobs"),
        (["quality", "--model", "digits-rar"], "name them with --recipe"),
    ],
)
def test_options_that_would_be_ignored(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) == BAD_INPUT
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("device", ["cuda", "no-such-device"])
def test_a_device_that_is_not_there(device: str, capsys: pytest.CaptureFixture[str]) -> None:
    if device == "cuda" and torch.cuda.is_available():
        pytest.skip("CUDA is available here; the message is for machines without it")
    assert run(["eval", "--device", device]) == BAD_INPUT
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 and f"'{device}': " in lines[0]
    assert lines[0].endswith("--device cpu works everywhere") and lines[1].startswith("try: ")


@pytest.mark.parametrize(
    "arguments", [["demo"], ["generate", "--backend", "sim"], ["study", "sharing"]]
)
def test_a_missing_compiler_is_said_first(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Not after the minutes that come before the build, and with the compiler's own name."""
    monkeypatch.setenv("CXX", "ccache no-such-compiler")
    assert run([*arguments, "-o", str(tmp_path / "out")]) == FAILED
    (line,) = capsys.readouterr().err.splitlines()
    assert "ccache no-such-compiler was not found" in line and "correct CXX" in line
    assert not (tmp_path / "out").exists()


def test_a_changed_accelerator_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["estimate", "--config", "small-fp4", "--model", "digits", "--set", "rows=32"]
    assert run(arguments) == 0
    text = capsys.readouterr().out
    assert "small-fp4-changed" in text and "-changed: with rows=32" in text


def test_disassemble_reads_no_more_than_it_must() -> None:
    """An endless device is refused at once; a pipe is read to the end of the program."""
    code = "import sys; from lutvar.cli.main import run; sys.exit(run(sys.argv[1:]))"
    for path in ("/dev/zero", "-"):
        done = subprocess.run(
            [sys.executable, "-c", code, "disassemble", path], input=bytes(200),
            capture_output=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == BAD_INPUT and b"no program magic" in done.stderr


def test_a_reader_that_stops(tmp_path: Path) -> None:
    """`lutvar ... | head -1` ends in silence."""
    code = (
        "import sys; from lutvar.cli.main import run; sys.stdin.read(); "
        "sys.exit(run(['doctor', '--json']))"
    )
    with (tmp_path / "err").open("wb") as errors:
        process = subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=errors,
        )  # fmt: skip
        assert process.stdout is not None and process.stdin is not None
        process.stdout.close()
        process.stdin.close()
        assert process.wait(timeout=120) == BROKEN_PIPE
    assert (tmp_path / "err").read_text() == ""


def test_nothing_warns_after_ctrl_c(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What was left half done would warn of it when it is collected."""

    class Half:
        def __del__(self) -> None:
            warnings.warn("never used", stacklevel=1)

    def interrupted() -> None:
        half = [Half()]
        half.append(half)  # type: ignore[arg-type]  # a cycle: collected later
        raise KeyboardInterrupt

    command = click.Command("interrupted", callback=interrupted)
    monkeypatch.setitem(main.cli.commands, "interrupted", command)
    with warnings.catch_warnings():
        assert run(["interrupted"]) == main.INTERRUPTED
        gc.collect()
    assert capsys.readouterr().err == "interrupted\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sim", "--match", "("], "'(' is no regular expression"),
        (["estimate", "--model", "nope"], "known are d16, d20, d24, d30, d36-s, cifar10, digits"),
        (["estimate", "--set", "rows=17"], "rows is 17"),
        (["estimate", "--set", "input_terms=3"], "input_terms is 3: Input should be 1 or 2"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_values_are_refused_at_once(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) == 2
    error = capsys.readouterr().err
    assert message in error and "Value error" not in error
