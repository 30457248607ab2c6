# SPDX-License-Identifier: Apache-2.0
"""The pages about the Python interface: `make docs`, or `python docs/build_api.py build/docs`.

Docstrings are Markdown with single backticks, in sections as Google writes them (Args, Attributes,
Members, Returns, Raises); `#:` comments document constants, fields and ports. Any warning of pdoc
ends the build with exit code 1.
"""

from __future__ import annotations

import ast
import contextlib
import importlib
import inspect
import json
import os
import pkgutil
import re
import sys
import tempfile
import typing
import warnings
from collections.abc import Iterator
from dataclasses import is_dataclass
from itertools import zip_longest
from pathlib import Path
from types import ModuleType

import pdoc.doc
import pdoc.doc_ast
import pdoc.docstrings
import pdoc.render

import lutvar
from lutvar.sim.runner import default_config, ports_of


def module_names() -> list[str]:
    """Every module of the package, also those that a package's `__all__` leaves out."""
    names = (info.name for info in pkgutil.walk_packages(lutvar.__path__, "lutvar."))
    return ["lutvar", *sorted(name for name in names if not name.endswith("__main__"))]


@contextlib.contextmanager
def testbench_settings() -> Iterator[None]:
    """Let testbenches be imported outside a simulation: they read the runner's settings."""
    config = default_config("verilator")
    settings = {
        "accelerator": config.model_dump(),
        "ports": ports_of(config),
        "four_state": False,
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "settings.json"
        path.write_text(json.dumps(settings), encoding="utf-8")
        os.environ["LUTVAR_TESTBENCH"] = str(path)
        yield


def resolve_constructors(module: ModuleType) -> None:
    """Evaluate the annotations of constructors that nobody wrote.

    Those of NamedTuples and of dataclasses with a base in another module are made in a namespace
    that lacks what their annotations name, and pdoc would look there.
    """
    for kind in vars(module).values():
        if not inspect.isclass(kind) or kind.__module__ != module.__name__:
            continue
        if is_dataclass(kind):
            made = kind.__init__
        elif issubclass(kind, tuple) and hasattr(kind, "_fields"):
            made = kind.__new__
        else:
            continue
        with contextlib.suppress(NameError):  # imported for type checkers only: pdoc knows how
            made.__annotations__.update(typing.get_type_hints(kind))


def comment_of(lines: list[str], node: ast.stmt) -> str:
    """What `#:` says of a definition: at the end of its line, or in the lines above it."""
    end = node.end_lineno or node.lineno
    if found := re.search(r"  #: (.*)$", lines[end - 1]):
        return found[1]
    above: list[str] = []
    row = node.lineno - 2
    while row >= 0 and (found := re.match(r"\s*#: (.*)$", lines[row])):
        above.insert(0, found[1])
        row -= 1
    return " ".join(above)


def read_comments() -> None:
    """Let pdoc take the `#:` comments of constants, fields and ports for their docstrings."""
    parse = pdoc.doc_ast._parse

    def parse_with_comments(source: str) -> ast.AST:
        tree = parse(source)
        lines = source.splitlines()
        for parent in ast.walk(tree):
            if not isinstance(parent, ast.Module | ast.ClassDef):
                continue
            body: list[ast.stmt] = []
            for node, after in zip_longest(parent.body, parent.body[1:]):
                body.append(node)
                if not isinstance(node, ast.Assign | ast.AnnAssign) or isinstance(after, ast.Expr):
                    continue
                if text := comment_of(lines, node):
                    body.append(ast.Expr(ast.Constant(text)))
            parent.body = body
        return tree

    pdoc.doc_ast._parse = parse_with_comments


def build(folder: Path) -> int:
    """Write the pages into a folder. Returns the number of warnings, which it prints."""
    names = module_names()
    read_comments()
    pdoc.docstrings.GOOGLE_LIST_SECTIONS.append("Members")
    pdoc.render.configure(docformat="google", footer_text=f"lutvar {lutvar.__version__}")
    with testbench_settings(), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)  # pdoc's own
        for name in names:
            resolve_constructors(importlib.import_module(name))
        modules = {name: pdoc.doc.Module.from_name(name) for name in names}
        for name, module in modules.items():
            path = folder / f"{name.replace('.', '/')}.html"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(pdoc.render.html_module(module, modules), encoding="utf-8")
        (folder / "index.html").write_text(pdoc.render.html_index(modules), encoding="utf-8")
        (folder / "search.js").write_text(pdoc.render.search_index(modules), encoding="utf-8")
    for warning in caught:
        print(f"docs: {warning.message}", file=sys.stderr)
    print(f"{folder / 'index.html'}: {len(names)} modules, {len(caught)} warnings")
    return len(caught)


if __name__ == "__main__":
    sys.exit(build(Path(sys.argv[1] if len(sys.argv) > 1 else "build/docs")) > 0)
