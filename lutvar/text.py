# SPDX-License-Identifier: Apache-2.0
"""Text that people read: tables for a terminal, lines of a page."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Sequence
from enum import Enum

PAGE_WIDTH = 100  #: columns of the documentation's prose
_CODE = re.compile(r"`[^`]+`")
#: What would begin a list, heading, quotation or table at the start of a line.
_BLOCK = re.compile(r"([*+-]|\d+[.)]|#+|>|\|)(\s|$)")


class TextEnum(str, Enum):
    """An enum whose members are the words that files and commands use; equal to those strings."""

    __str__ = str.__str__

    def __format__(self, spec: str) -> str:
        return str.__format__(self, spec)


def class_name(classes: Sequence[str], label: int) -> str:
    """A class for people; -1 and the number of classes are none, as in `generate --class`."""
    return "no class" if label in (-1, len(classes)) else classes[label]


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Plain text table with columns as wide as their content.

    Not rich's: the same text goes to terminals, log files and pages, at any width of the terminal.
    """
    cells = [[str(c) for c in row] for row in (head, *rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
    lines = [
        "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in cells
    ]
    lines.insert(1, "  ".join("-" * w for w in widths))
    return "\n".join(lines)


def wrap_page(page: str) -> str:
    """A Markdown page with its prose at `PAGE_WIDTH` columns; it renders as before.

    For pages that a program writes: a paragraph or list item is one line. Tables, headings and
    indented code stay as they are, and no line ends inside inline code.
    """
    return "\n".join(wrapped for line in page.split("\n") for wrapped in _wrap_line(line))


def _wrap_line(line: str) -> list[str]:
    if len(line) <= PAGE_WIDTH or line.startswith(("|", "#", "    ", "<!--")):
        return [line]
    indent = "  " if line.startswith("* ") else ""
    text = _CODE.sub(lambda match: match[0].replace(" ", "\0"), line)
    lines: list[str] = []
    for wrapped in textwrap.wrap(
        text, PAGE_WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    ):
        if lines and _BLOCK.match(wrapped.strip()):
            lines[-1], _, word = lines[-1].rpartition(" ")
            wrapped = f"{indent}{word} {wrapped.strip()}"
        lines.append(wrapped)
    return [wrapped.replace("\0", " ") for wrapped in lines]
