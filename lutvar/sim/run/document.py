# SPDX-License-Identifier: Apache-2.0
"""A page of headings, paragraphs, tables and pictures, written as Markdown or as one HTML file."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment

#: The HTML page. Text is escaped by the engine; pictures are part of the page.
_PAGE = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; color: #14181c; background: #fff;
       max-width: 1200px; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2rem; }
img { max-width: 100%; height: auto; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .8rem; text-align: right; border-bottom: 1px solid #dde1e5; }
th { border-bottom: 2px solid #14181c; } th:first-child, td:first-child { text-align: left; }
</style>
</head>
<body>
{% for block in blocks -%}
{% if block is heading -%}
<h{{ block.level }}>{{ block.text }}</h{{ block.level }}>
{% elif block is paragraph -%}
<p>{{ block.text }}</p>
{% elif block is picture -%}
<p><img alt="{{ block.text }}" src="data:image/png;base64,{{ block.path | base64 }}"></p>
{% else -%}
<div class="wide"><table>
<tr>{% for cell in block.head %}<th>{{ cell }}</th>{% endfor %}</tr>
{% for row in block.rows -%}
<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor -%}
</table></div>
{% endif -%}
{% endfor -%}
</body>
</html>
"""


@dataclass(frozen=True)
class Heading:
    """A heading; level 1 is the page's."""

    text: str
    level: int = 2


@dataclass(frozen=True)
class Paragraph:
    """Running text."""

    text: str


@dataclass(frozen=True)
class Table:
    """A table; cells are shown as they are."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Picture:
    """A PNG file beside the page; HTML embeds it."""

    path: Path
    text: str


Block = Heading | Paragraph | Table | Picture


def to_markdown(blocks: Sequence[Block]) -> str:
    """The page as Markdown; pictures are links to files in the same folder."""
    parts = []
    for block in blocks:
        if isinstance(block, Heading):
            parts.append(f"{'#' * block.level} {block.text}")
        elif isinstance(block, Paragraph):
            parts.append(block.text)
        elif isinstance(block, Picture):
            parts.append(f"![{block.text}]({block.path.name})")
        else:
            rule = ["---"] + ["---:"] * (len(block.head) - 1)
            rows = [[cell.replace("|", "\\|") for cell in row] for row in block.rows]
            parts.append("\n".join(f"| {' | '.join(r)} |" for r in (block.head, rule, *rows)))
    return "\n\n".join(parts) + "\n"


def to_html(title: str, blocks: Sequence[Block]) -> str:
    """The page as one file that needs nothing else."""
    environment = Environment(autoescape=True, keep_trailing_newline=True)
    for kind in (Heading, Paragraph, Picture):
        environment.tests[kind.__name__.lower()] = lambda block, kind=kind: isinstance(block, kind)
    environment.filters["base64"] = lambda path: base64.b64encode(path.read_bytes()).decode()
    return environment.from_string(_PAGE).render(title=title, blocks=blocks)
