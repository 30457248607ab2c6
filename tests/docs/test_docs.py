# SPDX-License-Identifier: Apache-2.0
"""The documentation is true: examples run, commands parse, targets and named files exist.

Examples that simulate run when `LUTVAR_SLOW=1`; else only their imports do.
"""

from __future__ import annotations

import ast
import os
import re
import shlex
from pathlib import Path
from typing import NamedTuple

import click
import pytest

from lutvar.cli import main
from lutvar.cli.main import cli
from lutvar.contract import pages

ROOT = Path(__file__).parents[2]
PAGES = (
    *(ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")),
    ROOT / "constraints" / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
)  # fmt: skip
SLOW = os.environ.get("LUTVAR_SLOW") == "1"
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
_PATH = re.compile(r"`((?:lutvar|docs|tests|constraints|requirements)/[\w./*-]+)`")


class Block(NamedTuple):
    """A fenced block: its page, the line where its text begins, language, text."""

    page: Path
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def _blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    return [
        Block(page, text.count("\n", 0, m.start()) + 2, m[1], m[2]) for m in _FENCE.finditer(text)
    ]


BLOCKS = [block for page in PAGES for block in _blocks(page)]
PYTHON = [block for block in BLOCKS if block.language == "python"]
COMMANDS = [
    (f"{block}", shlex.split(line, comments=True))
    for block in BLOCKS
    if block.language in ("sh", "bash", "console")
    for line in (raw.removeprefix("$ ").strip() for raw in block.text.splitlines())
    if line and not line.startswith("#")
]


def test_there_is_something_to_check() -> None:
    assert len(PYTHON) >= 3
    assert len([c for _, c in COMMANDS if c[0] == "lutvar"]) >= 8


@pytest.mark.parametrize("block", PYTHON, ids=str)
def test_python_example_runs(block: Block, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)  # examples write to build/, where simulations are cached
    source = "\n" * (block.line - 1) + block.text  # so that a traceback names the page's line
    tree = ast.parse(source, str(block.page))
    if "Session(" in block.text and not SLOW:
        tree.body = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    exec(compile(tree, str(block.page), "exec"), {"__name__": "__example__"})


@pytest.mark.parametrize(("where", "words"), COMMANDS, ids=[f"{w} {c[0]}" for w, c in COMMANDS])
def test_command_exists(where: str, words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    # Files that an earlier command of the page would have written.
    monkeypatch.setattr(click.Path, "convert", lambda self, value, param, ctx: Path(value))
    for parameter in (p for command in main.COMMANDS for p in command.params):
        monkeypatch.setattr(parameter, "callback", None)  # looks for a GPU, for instance
    program, arguments = words[0], words[1:]
    if program == "lutvar":
        _parse(arguments)
    elif program == "make":
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M)
        variables = re.findall(r"^([A-Z_]+) \?=", (ROOT / "Makefile").read_text(), re.M)
        for argument in arguments:
            name, assigns, _ = argument.partition("=")
            assert name in (variables if assigns else targets), f"{where}: make {argument}"
    else:
        assert program in ("pip", "sudo", "vivado", "python", "export", "cd", "cp"), (
            f"{where}: {program} is unknown"
        )


def _parse(arguments: list[str]) -> None:
    """Let click parse a command line without running it."""
    with cli.make_context("lutvar", list(arguments)) as parent:
        name, command, rest = cli.resolve_command(parent, arguments)
        assert command is not None
        with command.make_context(name, rest, parent=parent):
            pass


def test_a_wrong_command_would_be_noticed() -> None:
    with pytest.raises(click.UsageError):
        _parse(["generate", "--backnd", "float"])
    with pytest.raises(click.UsageError):
        _parse(["synthesise"])


def _anchors(page: Path) -> set[str]:
    """What a link may have behind `#`: the headings, as GitHub and GitLab spell them."""
    headings = re.findall(r"^#+ (.*)$", _FENCE.sub("", page.read_text(encoding="utf-8")), re.M)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_linked_headings_exist(page: Path) -> None:
    for target in _LINK.findall(_FENCE.sub("", page.read_text(encoding="utf-8"))):
        name, _, anchor = target.partition("#")
        if anchor and "://" not in target:
            assert anchor in _anchors(page.parent / name if name else page), (
                f"{page.name}: {target}"
            )


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_linked_files_exist(page: Path) -> None:
    text = _FENCE.sub("", page.read_text(encoding="utf-8"))
    for target in _LINK.findall(text):
        if not target.startswith(("http://", "https://", "#")):
            path = page.parent / target.split("#")[0]
            assert path.exists(), f"{page.name} links to {target}, which does not exist"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_named_files_exist(page: Path) -> None:
    for name in _PATH.findall(page.read_text(encoding="utf-8")):
        assert list(ROOT.glob(name.rstrip("/"))), f"{page.name} names {name}, which does not exist"


@pytest.mark.parametrize("name", pages.PAGES)
def test_generated_pages_are_current(name: str) -> None:
    text = (ROOT / "docs" / name).read_text(encoding="utf-8")
    assert text == pages.PAGES[name](), f"out of date; run: {pages.COMMAND}"
