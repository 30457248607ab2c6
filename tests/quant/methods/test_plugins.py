# SPDX-License-Identifier: Apache-2.0
"""Steps and attention kinds by name: those of lutvar, and those of other packages."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lutvar.quant.methods.attention.registry import KINDS
from lutvar.quant.methods.plugins import Registry
from lutvar.quant.methods.steps import STEPS, StepBase, make_step

ROOT = Path(__file__).parents[3]
#: A package of a user's: one step that writes a note, one entry point that cannot be loaded.
MODULE = """
from lutvar.quant.methods.steps import StepBase, register_step

@register_step("sticker")
class Sticker(StepBase):
    text: str = "seen"

    def apply(self, block):
        for layer in self.layers_in(block):
            layer.notes.append(self.text)
"""
ENTRY_POINTS = """
[lutvar.steps]
sticker = sticker_package:Sticker
broken = sticker_package:Missing
"""
RECIPE = """
name: sticky
layers:
  fc1: {weight: {format: INT4, group: row}}
steps:
  - {step: sticker, text: from a package}
"""


@pytest.fixture
def package(tmp_path: Path) -> dict[str, str]:
    """Environment in which a distribution with entry points is installed."""
    (tmp_path / "sticker_package.py").write_text(MODULE, encoding="utf-8")
    info = tmp_path / "sticker-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: sticker\nVersion: 1.0\n", "utf-8")
    (info / "entry_points.txt").write_text(ENTRY_POINTS, encoding="utf-8")
    (tmp_path / "sticky.yaml").write_text(RECIPE, encoding="utf-8")
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}


def run(code: str, environment: dict[str, str], folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=folder, capture_output=True, text=True,
        check=False,
    )  # fmt: skip


def test_a_recipe_file_names_a_step_of_another_package(
    package: dict[str, str], tmp_path: Path
) -> None:
    command = "from lutvar.cli.main import main; main()"
    arguments = [
        "quantize",
        "--model",
        "digits",
        "--recipe",
        "sticky.yaml",
        "-o",
        "out.safetensors",
    ]
    result = subprocess.run(
        [sys.executable, "-c", command, *arguments], env=package, cwd=tmp_path,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    code = (
        "from lutvar.quant.methods.recipes.files import read\n"
        "print({n for item in read('out.safetensors').layers for n in item['notes']})"
    )
    assert run(code, package, tmp_path).stdout.strip() == "{'from a package'}"


def test_a_plugin_that_cannot_be_loaded_is_named(package: dict[str, str], tmp_path: Path) -> None:
    code = (
        "from lutvar.quant.methods.steps import make_step\n"
        "try: make_step({'step': 'broken'})\n"
        "except ValueError as error: print(error)"
    )
    out = run(code, package, tmp_path).stdout
    assert "'broken'" in out and "sticker_package:Missing" in out and "cannot be loaded" in out


def test_every_step_is_registered_under_the_name_of_its_module() -> None:
    for name in STEPS.names():
        cls = STEPS.get(name)
        if cls.__module__.startswith("lutvar."):
            assert cls.__module__.rpartition(".")[2] == name.replace("-", "_")


def test_unknown_names_list_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"unknown step 'no-such'; known: .*hadamard.*vidit"):
        make_step({"step": "no-such"})
    with pytest.raises(ValueError, match=r"unknown step None"):
        make_step({})
    with pytest.raises(ValueError, match=r"unknown attention.kind 'base'; known: log-softmax"):
        KINDS.get("base")
    # A module beside the steps that is none.
    with pytest.raises(ValueError, match=r"unknown step 'base'"):
        make_step({"step": "base"})


def test_a_name_is_given_once() -> None:
    registry: Registry[type] = Registry("step", STEPS.package, "lutvar.no-such-group")

    @registry.register("twice")
    class First(StepBase):
        pass

    with pytest.raises(ValueError, match=r"'twice' is .*First already; .*Second needs another"):

        @registry.register("twice")
        class Second(StepBase):
            pass

    assert registry.get("twice") is First
