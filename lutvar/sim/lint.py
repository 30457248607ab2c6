# SPDX-License-Identifier: Apache-2.0
"""Read an exported core with Verilator, Icarus and Yosys, and report their warnings."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from lutvar.environment import tool_environment

from .tools import icarus, verilator, yosys

#: Verilator warnings that netlist-style Verilog causes by nature, and why each is harmless.
WAIVED = {
    "CASEOVERLAP": "one-hot multiplexers are written as casez; their selects exclude each other",
    "DECLFILENAME": "the file is named after the configuration, not after a module",
    "PROCASSINIT": "flip-flops have an initial value, as FPGAs do, besides their reset",
    "SYMRSVDWORD": "the port must be called interrupt for Vivado to recognise it",
    "UNUSEDSIGNAL": "bits of words that nothing reads stay in the netlist; synthesis drops them",
    "VARHIDDEN": "Yosys names the arguments of its multiplexer functions a, b and s, as some ports",
    "WIDTHEXPAND": "Yosys writes constants in comparisons without leading zeros",
    "WIDTHTRUNC": "Yosys writes 'is zero' as a logical not of a word",
}


def _run(command: Sequence[str], environment: dict[str, str] | None = None, **options: str) -> str:
    done = subprocess.run(
        command, capture_output=True, encoding="utf-8", errors="replace", check=False,
        env=tool_environment(environment),
        **options,  # type: ignore[call-overload]
    )  # fmt: skip
    output: str = done.stdout + done.stderr
    if done.returncode and not output.strip():
        output = f"{command[0]} ended with status {done.returncode}"
    return output if done.returncode or output.strip() else ""


def lint_verilator(verilog: Path, top: str, build_dir: Path) -> list[str]:
    """Warnings and errors of `verilator --lint-only -Wall` that are not in `WAIVED`."""
    tool = verilator(build_dir).require("It is needed to lint the Verilog.")
    assert tool.path is not None
    output = _run(
        [tool.path, "--lint-only", "-Wall", "--top-module", top,
         *(f"-Wno-{name}" for name in WAIVED), str(verilog)],
        dict(tool.environment),
    )  # fmt: skip
    return [line for line in output.splitlines() if line.startswith("%")]


def lint_icarus(verilog: Path, top: str) -> list[str]:
    """Messages of `iverilog -Wall` with the flags that cocotb uses, for both language
    versions."""
    tool = icarus().require("It is needed to lint the Verilog.")
    assert tool.path is not None
    lines = []
    for generation in ("-g2005", "-g2012"):
        output = _run([tool.path, generation, "-Wall", "-t", "null", "-s", top, str(verilog)])
        # Without a directive in the file the unit is the tool's default, which is what is wanted.
        lines += [line for line in output.splitlines() if "timescale" not in line]
    return lines


def check_yosys(verilog: Path, top: str) -> list[str]:
    """Problems of Yosys: parse errors, missing modules, loops, undriven or multiply driven nets."""
    tool = yosys().require("It is needed to check the netlist.")
    assert tool.path is not None
    with tempfile.TemporaryDirectory(dir=verilog.parent) as folder:
        # YoWASP sees files below its working directory only.
        local = Path(folder) / "top.v"
        local.write_bytes(verilog.read_bytes())
        script = f"read_verilog top.v; hierarchy -check -top {top}; proc; check -assert"
        output = _run([tool.path, "-p", script], cwd=folder)
    problems = re.findall(r"^(?:Warning|ERROR|Error).*", output, flags=re.MULTILINE)
    if not problems and "Found and reported 0 problems." not in output:
        problems = [f"no verdict from Yosys: {output[-500:]}"]
    return problems
