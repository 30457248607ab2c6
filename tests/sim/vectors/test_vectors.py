# SPDX-License-Identifier: Apache-2.0
"""Exported vectors: Icarus and Verilator replay them without Python, and find what is wrong."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from lutvar.cli.inspecting import inspect
from lutvar.cli.main import run as command
from lutvar.contract.errors import ConfigError
from lutvar.environment import tool_environment
from lutvar.sim.runner import tiny_accelerator
from lutvar.sim.tools import VERILATOR_HINT, verilator
from lutvar.sim.vectors.cases import CASES, record_case
from lutvar.sim.vectors.recorder import Op
from lutvar.sim.vectors.write import export_vectors

CONFIG = tiny_accelerator("fp6")  # two weight ports


@pytest.fixture(scope="module")
def vectors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vectors")
    export_vectors(CONFIG, "units", folder)
    return folder


def change_a_bit(file: Path) -> int:
    """The lowest bit of the last word of memory. Returns the word's index."""
    lines = file.read_text(encoding="utf-8").splitlines()
    index = 0
    for line in lines:
        index = int(line[1:], 16) if line.startswith("@") else index + 1
    index -= not lines[-2].startswith("@")
    lines[-1] = f"{int(lines[-1], 16) ^ 1:0128x}"
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return index


def replay(script: Path, environment: dict[str, str], **more: str) -> subprocess.CompletedProcess:
    variables = tool_environment(environment) | more
    return subprocess.run(
        ["sh", str(script)], env=variables, capture_output=True, text=True, check=False
    )


def passes(done: subprocess.CompletedProcess) -> bool:
    lines = done.stdout.splitlines()
    right = [line for line in lines if re.match(r"program \d: \d+ words of memory are right", line)]
    # Some simulators print a report of their own after the verdict.
    verdicts = [line for line in lines if line.startswith(("PASS", "FAIL"))]
    return (
        not done.returncode
        and len(right) == 3
        and [v[:16] for v in verdicts] == ["PASS: 3 programs"]
    )


@pytest.fixture(scope="module")
def on_icarus(vectors: Path) -> str:
    """What the first replay says."""
    done = replay(vectors / "run_icarus.sh", {}, SEED="7")
    assert passes(done) and "seed 7" in done.stdout, done.stdout + done.stderr
    return done.stdout


@pytest.mark.icarus
@pytest.mark.slow
def test_icarus_finds_a_changed_word(vectors: Path, on_icarus: str, tmp_path: Path) -> None:
    wrong = shutil.copytree(vectors, tmp_path / "wrong")
    index = change_a_bit(wrong / "expect0.hex")
    # Compiled before; only memory files are read now.
    done = subprocess.run(
        ["vvp", "-n", "icarus.vvp"], cwd=wrong, capture_output=True, text=True, check=False,
    )  # fmt: skip
    text = done.stdout
    assert "PASS" not in text and "FAIL: 1 of" in text and "after program 0" in text, text
    assert f"address {0x5_5000_0000 + 64 * index:016x}" in text
    expected, found = (int(re.search(rf"{w} +(\w+)", text)[1], 16) for w in ("expected", "found"))  # type: ignore[index]
    assert expected ^ found == 1


@pytest.mark.icarus
@pytest.mark.verilator
@pytest.mark.slow
def test_verilator_and_icarus_agree_in_every_cycle(
    vectors: Path, on_icarus: str, tmp_path: Path
) -> None:
    """Same pauses, same cycles, same memory, same signature of all outputs; errors are seen."""
    folder = shutil.copytree(vectors, tmp_path / "copy")
    tool = verilator(tmp_path).require(VERILATOR_HINT)
    variables = dict(tool.environment)
    # It runs 3,000 cycles: an optimised build would cost more than it saves.
    flags = "OPT_FAST=-O0 OPT_SLOW=-O0 OPT_GLOBAL=-O0"
    variables["MAKEFLAGS"] = f"{variables.get('MAKEFLAGS', '')} {flags}".strip()
    done = replay(folder / "run_verilator.sh", variables, SEED="7")
    assert passes(done), done.stdout + done.stderr
    lines = [[li for li in text.splitlines() if li.startswith(("program", "PASS"))]
             for text in (done.stdout, on_icarus)]  # fmt: skip
    assert lines[0] == lines[1] and re.search(r"signature (?!0{16})[0-9a-f]{16}$", lines[0][-1])
    change_a_bit(folder / "expect2.hex")
    done = subprocess.run(
        ["./verilated/Vtestbench"], cwd=folder, capture_output=True, text=True, check=False
    )
    assert "PASS" not in done.stdout and "after program 2" in done.stdout
    # A register that answers otherwise is seen, too.
    shutil.copy(vectors / "expect2.hex", folder)
    steps = (folder / "steps.hex").read_text(encoding="utf-8").splitlines()
    at = next(i for i, s in enumerate(steps) if s.startswith(f"{int(Op.EXPECT):x}"))
    steps[at] = steps[at][:-1] + f"{int(steps[at][-1], 16) ^ 1:x}"
    (folder / "steps.hex").write_text("\n".join(steps) + "\n", encoding="utf-8")
    done = subprocess.run(
        ["./verilated/Vtestbench"], cwd=folder, capture_output=True, text=True, check=False
    )
    assert "PASS" not in done.stdout and "FAIL: register" in done.stdout


def test_files(vectors: Path) -> None:
    data = json.loads((vectors / "case.json").read_text(encoding="utf-8"))
    assert data["programs"] == 3 and data["config"] == "tiny-fp6"
    assert inspect(vectors / "case.json").kind == "case of `lutvar export-vectors`"
    for name in ("run_icarus.sh", "run_verilator.sh", "run_xsim.sh"):
        assert os.access(vectors / name, os.X_OK)
    for script in vectors.glob("run_*.sh"):  # the shell understands them
        subprocess.run(["sh", "-n", str(script)], check=True)
    xsim = (vectors / "run_xsim.sh").read_text(encoding="utf-8")
    for program in ("xvlog accelerator.v testbench.v", "xelab", "xsim lutvar_vectors -runall"):
        assert program in xsim
    whole = (vectors / "load0.hex").read_text(encoding="utf-8").splitlines()
    assert len(whole) == data["memory_words"] and {len(line) for line in whole} == {128}
    text = (vectors / "testbench.v").read_text(encoding="utf-8")
    assert "m_axi_wgt1" in text and CONFIG.module in text and "{" + "p}" not in text


def test_what_the_driver_does_is_replayed() -> None:
    recorder = record_case("layer", CONFIG)
    ops = [step.op for step in recorder.steps]
    assert [op for op in ops if op in (Op.LOAD, Op.INTERRUPT, Op.COMPARE)] == [
        Op.LOAD, Op.INTERRUPT, Op.COMPARE,
    ] * 3  # fmt: skip
    assert len(recorder.loads) == len(recorder.expects) == 3
    assert all(recorder.expects) and recorder.words * 64 < 1 << 20
    # Nothing that the device writes lies outside of what the testbench holds.
    assert max(max(words) for words in recorder.expects) < recorder.words


def test_the_site_of_a_versal_can_replace_the_model(tmp_path: Path) -> None:
    from lutvar.contract.accelerator import load_accelerator
    from lutvar.sim.vectors.write import _scripts

    text = _scripts(load_accelerator("small-dsp-fp4"), "x")["run_xsim_dsp58.sh"]
    assert "-d LUTVAR_DSP58" in text and "-L unisims_ver" in text and "glbl.v" in text
    assert "run_xsim_dsp58.sh" not in _scripts(CONFIG, "x")


def test_bad_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from lutvar.cli import export_vectors as cli

    assert tuple(CASES) == cli.CASES
    with pytest.raises(ConfigError, match="unknown case 'none'; known are units, layer, digits"):
        record_case("none", CONFIG)
    for words, text in (
        (["nothing"], "nothing"), (["small-fp4", "--case", "none"], "none"),
    ):  # fmt: skip
        assert command(["export-vectors", *words, "-o", str(tmp_path / "out")]) == 2
        error = capsys.readouterr().err
        assert text in error and "Traceback" not in error and not (tmp_path / "out").exists()
