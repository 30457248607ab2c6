# SPDX-License-Identifier: Apache-2.0
"""The pages about the Python interface: one markup, every module, no warning unnoticed.

All modules are built by `make docs`, which CI runs; here two are.
"""

from __future__ import annotations

import ast
import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
_FOREIGN = re.compile(
    r"``|:(?:func|class|mod|meth|attr|data|exc|obj|param|returns?|raises)\b[^:]*:"
)


def _docstrings(path: Path) -> list[tuple[int, str]]:
    kinds = ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef
    nodes = [n for n in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(n, kinds)]
    return [(n.body[0].lineno, text) for n in nodes if (text := ast.get_docstring(n)) is not None]


@pytest.mark.parametrize("folder", ["lutvar", "tests", "constraints", "requirements", "docs"])
def test_docstrings_are_markdown_with_single_backticks(folder: str) -> None:
    for path in sorted((ROOT / folder).rglob("*.py")):
        for line, text in _docstrings(path):
            where = f"{path.relative_to(ROOT)}:{line}"
            assert not _FOREIGN.search(text), f"{where}: write `name`: one backtick, no role"
            assert text.count("`") % 2 == 0, f"{where}: a backtick without its partner"


@pytest.fixture
def build_api(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    pytest.importorskip("pdoc", reason="pdoc is in the extra docs")
    monkeypatch.setenv("LUTVAR_TESTBENCH", "")  # set by the script: put back afterwards
    spec = importlib.util.spec_from_file_location("build_api", ROOT / "docs/build_api.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_pages_are_written_without_warnings(
    build_api: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    names = build_api.module_names()
    assert {"lutvar", "lutvar.hw.links", "lutvar.sim.testbenches.common"} <= set(names)
    chosen = ["lutvar.text", "lutvar.quant.methods.layers.ranged", "lutvar.hw.axi.reader"]
    monkeypatch.setattr(build_api, "module_names", lambda: chosen)
    assert build_api.build(tmp_path) == 0
    page = (tmp_path / "lutvar/text.html").read_text("utf-8")
    assert "Plain text table with columns as wide as their content." in page
    assert (tmp_path / "lutvar/quant/methods/layers/ranged.html").exists()
    assert (tmp_path / "index.html").exists() and (tmp_path / "search.js").exists()
    ports = (tmp_path / "lutvar/hw/axi/reader.html").read_text("utf-8")
    assert "request nothing new; bursts under way end in the queue" in ports  # beside the port
    assert "64-byte aligned address and number of beats" in ports  # above it


def test_a_warning_counts(
    build_api: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    broken = ModuleType("broken")
    exec("def f(x: 'Missing') -> None:\n    '''Takes what nobody defined.'''", broken.__dict__)
    monkeypatch.setitem(sys.modules, "broken", broken)
    monkeypatch.setattr(build_api, "module_names", lambda: ["broken"])
    assert build_api.build(tmp_path) == 1
    assert "docs: Error parsing type annotation" in capsys.readouterr().err
