# SPDX-License-Identifier: Apache-2.0
"""What runs outside the tests exists: CI's commands and files, hooks, lowest versions, metadata."""

from __future__ import annotations

import importlib.util
import re
import shlex
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
WORKFLOW = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8"))
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
CONSTRAINTS = (ROOT / "requirements/constraints.txt").read_text(encoding="utf-8")
STEPS = [step for job in WORKFLOW["jobs"].values() for step in job["steps"]]


def _minimum() -> ModuleType:
    spec = importlib.util.spec_from_file_location("minimum", ROOT / "requirements/minimum.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_workflow_calls_commands_that_exist() -> None:
    assert True in WORKFLOW, "`on:`, which YAML reads as true"
    commands = [step["run"] for step in STEPS if "run" in step]
    assert ".ci/run" in commands and "make test" in commands
    for command in commands:
        program, *words = shlex.split(command)
        if program == "make":
            assert set(words) <= set(re.findall(r"^([a-z-]+):", MAKEFILE, re.M))
        elif program != "sudo":
            assert (ROOT / program).stat().st_mode & 0o100, f"{program} cannot be executed"


def test_ci_calls_targets_that_exist() -> None:
    targets = re.findall(r"^([a-z-]+):", MAKEFILE, re.M)
    called = re.findall(r"^make ([a-z-]+)$", (ROOT / ".ci/run").read_text(), re.M)
    assert {"lint", "docs", "test"} <= set(called) <= set(targets)


def test_the_workflow_names_files_and_variables_that_exist() -> None:
    for step in STEPS:
        if path := step.get("with", {}).get("cache-dependency-path"):
            assert (ROOT / path).is_file(), path
    known = re.findall(r"^([A-Z_]+) \?=", MAKEFILE, re.M)
    for variables in (WORKFLOW["env"], WORKFLOW["jobs"]["minimum"]["env"]):
        assert set(variables) <= set(known), "make would ignore it"
    assert (ROOT / WORKFLOW["jobs"]["minimum"]["env"]["CONSTRAINTS"]).is_file()


def test_actions_are_pinned_to_a_version() -> None:
    used = [step["uses"] for step in STEPS if "uses" in step]
    assert used and all(re.fullmatch(r"[\w/-]+@v\d+", name) for name in used), used


def test_the_oldest_and_the_newest_python_are_run() -> None:
    found = [re.fullmatch(r".* :: (3\.\d+)", text) for text in PROJECT["classifiers"]]
    supported = [match[1] for match in found if match]
    assert WORKFLOW["jobs"]["pinned"]["strategy"]["matrix"]["python"] == [
        supported[0],
        supported[-1],
    ]
    assert PROJECT["requires-python"] == f">={supported[0]}"


def test_hooks_use_the_pinned_ruff() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"]
    (ruff,) = (repo for repo in hooks if repo["repo"].endswith("/ruff-pre-commit"))
    assert f"ruff=={ruff['rev'].removeprefix('v')}\n" in CONSTRAINTS
    assert {"ruff-check", "ruff-format"} == {hook["id"] for hook in ruff["hooks"]}


def test_minimum_versions_are_the_lower_bounds() -> None:
    written = (ROOT / "requirements/minimum.txt").read_text(encoding="utf-8")
    assert written == _minimum().minimum(ROOT / "pyproject.toml"), (
        "out of date; run: python requirements/minimum.py"
    )
    lines = [Requirement(line) for line in written.splitlines() if not line.startswith("#")]
    lowest = {canonicalize_name(line.name): str(line.specifier) for line in lines}
    groups: list[Any] = [PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()]
    for requirement in (Requirement(text) for group in groups for text in group):
        if requirement.name != "lutvar":
            (bound,) = (s.version for s in requirement.specifier if s.operator == ">=")
            assert lowest[canonicalize_name(requirement.name)] == f"=={bound}.*"


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ('["a"]', "a: needs one lower bound, such as a>=1.2"),
        ('["a>=1", "a>=2"]', "a>=2: another extra asks for >=1; give one bound"),
    ],
)
def test_a_bound_that_is_missing_or_double_is_named(
    lines: str, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "pyproject.toml"
    path.write_text(
        f'[project]\nname = "x"\ndependencies = {lines}\noptional-dependencies = {{}}\n'
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        _minimum().minimum(path)


def test_the_package_says_where_it_lives() -> None:
    assert {"Homepage", "Source", "Documentation", "Changelog", "Issues"} == set(PROJECT["urls"])
    assert all(url.startswith("https://") for url in PROJECT["urls"].values())
    assert PROJECT["keywords"] == sorted(PROJECT["keywords"])


def test_text_files_end_with_one_newline_and_no_line_with_blanks() -> None:
    """What the hooks check before a commit; here for those who commit without them."""
    for pattern in (
        "*.py",
        "*.md",
        "*.toml",
        "*.yml",
        "*.yaml",
        "*.tcl",
        "*.xdc",
        "*.cpp",
        "*.txt",
    ):
        for path in ROOT.glob(f"[!.b]*/**/{pattern}"):
            name = path.relative_to(ROOT)
            if name.parts[0] in ("build", "dist", "out") or name.parts[0].endswith(".egg-info"):
                continue  # made here, not kept
            text = path.read_text(encoding="utf-8")
            assert not text or (text.endswith("\n") and not text.endswith("\n\n")), f"{name}: end"
            assert not re.search(r"[ \t]$", text, re.M), f"{name}: blanks at the end of a line"
