# SPDX-License-Identifier: Apache-2.0
"""Pages are wrapped at one width, and pages that programs write come out wrapped."""

from __future__ import annotations

from pathlib import Path

import pytest

from lutvar.text import PAGE_WIDTH, wrap_page

ROOT = Path(__file__).parents[2]
PAGES = sorted({
    *ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "constraints").rglob("*.md"),
})  # fmt: skip


def _prose(text: str) -> list[tuple[int, str]]:
    """Lines with their numbers, without tables, fenced and indented code."""
    found, fenced = [], False
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith("```"):
            fenced = not fenced
        elif not fenced and not line.startswith(("|", "    ")):
            found.append((number, line))
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_prose_is_wrapped(page: Path) -> None:
    for number, line in _prose(page.read_text(encoding="utf-8")):
        fits = len(line) <= PAGE_WIDTH or " " not in line.strip()
        assert fits, f"{page.name}:{number} has {len(line)} columns; {PAGE_WIDTH} are allowed"


def test_the_pages_are_all_there() -> None:
    names = {page.name for page in PAGES}
    assert {"README.md", "CHANGELOG.md", "CONTRIBUTING.md", "architecture.md"} <= names


def test_a_written_page_is_wrapped_and_says_the_same() -> None:
    words = " ".join(f"word{i}" for i in range(40))
    page = (
        f"# {words}\n\n{words}\n\n* {words}\n\n| {words} |\n\n    {words}\n\nshort\n"
        f"<!-- {words} -->\n"
    )
    wrapped = wrap_page(page)
    assert wrapped.split() == page.split()
    assert all(len(line) <= PAGE_WIDTH for _, line in _prose(wrapped) if line[:1] not in "#<")
    for kept in (f"# {words}\n", f"| {words} |\n", f"    {words}\n", f"<!-- {words} -->\n"):
        assert kept in wrapped
    assert "\n  word" in wrapped, "list items hang"
    assert wrap_page(wrapped) == wrapped


def test_no_line_breaks_inside_code_or_begins_like_a_list() -> None:
    line = "x " * 40 + "`lutvar estimate --model d30 --config vck190` end"
    assert "`lutvar estimate --model d30 --config vck190`" in wrap_page(line)
    for sign in ("-", "*", "+", "1.", "#", "|", ">"):
        line = "word " * 19 + f"last {sign} rest of the sentence"
        assert all(not part.startswith(f"{sign} ") for part in wrap_page(line).split("\n"))
        assert wrap_page(line).split() == line.split()
