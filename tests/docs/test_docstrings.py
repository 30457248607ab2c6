# SPDX-License-Identifier: Apache-2.0
"""Every public definition says what it is for."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

LUTVAR = Path(__file__).parents[2] / "lutvar"
#: Packages whose public definitions all have docstrings.
FOLDERS = ("contract", "hw", "host", "sim", "bench", "cli", "quant")
#: Methods that a framework, or `StepBase`, defines and calls; their meaning is the class's.
INHERITED = {"elaborate", "forward", "convert", "apply"}
_Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def undocumented(source: str) -> Iterator[str]:
    """Names (`line: name`) of public modules, classes, functions and methods without docstring.

    Definitions inside functions are private; of properties the getter counts, of overloads the
    implementation.
    """
    module = ast.parse(source)
    if ast.get_docstring(module) is None:
        yield "1: the module"
    yield from _members(module, "")


def _members(parent: ast.Module | ast.ClassDef, prefix: str) -> Iterator[str]:
    for node in parent.body:
        if not isinstance(node, _Definition) or node.name.startswith("_"):
            continue
        decorators = {ast.unparse(decorator).split(".")[-1] for decorator in node.decorator_list}
        if node.name in INHERITED or decorators & {"overload", "setter", "override"}:
            continue
        if ast.get_docstring(node) is None:
            yield f"{node.lineno}: {prefix}{node.name}"
        if isinstance(node, ast.ClassDef):
            yield from _members(node, f"{prefix}{node.name}.")


def test_what_counts() -> None:
    source = '"""M."""\nclass A:\n  def f(self): ...\n  def _g(self): ...\n\ndef h():\n  "H."\n'
    assert list(undocumented(source)) == ["2: A", "3: A.f"]
    assert list(undocumented("x = 1")) == ["1: the module"]


@pytest.mark.parametrize("folder", FOLDERS)
def test_public_definitions_have_docstrings(folder: str) -> None:
    missing = [
        f"{path.relative_to(LUTVAR.parent)}:{name}"
        for path in sorted((LUTVAR / folder).rglob("*.py"))
        for name in undocumented(path.read_text("utf-8"))
    ]
    assert not missing, "no docstring: " + ", ".join(missing)
