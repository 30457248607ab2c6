# SPDX-License-Identifier: Apache-2.0
"""Runs the Vivado scripts in a plain Tcl shell, and makes the scripts' Python modules importable."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

CONSTRAINTS = Path(__file__).parents[2] / "constraints"
sys.path.insert(0, str(CONSTRAINTS))

Shell = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    """Run a script with arguments on the stand-in for Vivado; keywords go to its array `stub`."""
    tclsh = shutil.which("tclsh")
    if tclsh is None:
        pytest.skip("tclsh is not installed; the Tcl scripts cannot be executed here")

    def run(script: str, *argv: object, **stub: object) -> subprocess.CompletedProcess[str]:
        settings = {
            "slack": 0.1, "hertz": 199_998_001, "status": "write_device_image Complete!",
            "noc_mc": 2, "window": 1, "runs": tmp_path / "runs", **stub,
        }  # fmt: skip
        lines = [f"set stub({key}) {{{value}}}" for key, value in settings.items()]
        lines += [
            f"source {{{Path(__file__).with_name('vivado.tcl')}}}",
            f"set argv [list {' '.join(f'{{{a}}}' for a in argv)}]",
            f"source {{{CONSTRAINTS / script}}}",
        ]
        program = tmp_path / "run.tcl"
        program.write_text("\n".join(lines) + "\n")
        return subprocess.run([tclsh, str(program)], capture_output=True, text=True, timeout=30)

    return run
