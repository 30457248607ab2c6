# SPDX-License-Identifier: Apache-2.0
"""Tables of docs/results.md: a row for each way in which a recipe was computed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from .methods import FLOAT
from .record import Row, State
from .results import Comparison
from .results_plan import Part


class Column(NamedTuple):
    """A figure of a table: heading, name in a row, how a value is written."""

    heading: str
    figure: str
    form: str


#: Figures of the tables of generated images.
COLUMNS = (
    Column("Fréchet", "samples.frechet", ".2f"),
    Column("Fréchet to float", "paired.frechet", ".3f"),
    Column("KL, nat", "forced.kl_nats", ".4f"),
    Column("same tokens", "paired.tokens", ".3f"),
    Column("judged", "samples.agreement", ".3f"),
)
#: Figures of the tables of edited images.
EDIT_COLUMNS = (
    Column("Fréchet", "region.frechet", ".2f"),
    Column("Fréchet to float", "region.frechet_float", ".3f"),
    Column("PSNR to float, dB", "region.psnr_db", ".2f"),
    Column("KL, nat", "forced.kl_nats", ".4f"),
    Column("same tokens", "region.tokens", ".3f"),
    Column("judged", "samples.agreement", ".3f"),
)
_FIRST = ("recipe", "weights and inputs", "bits a weight", "computed")
WAYS = {"golden": "golden model", "fake": "fake-quantized", FLOAT: "float32"}


def table_lines(comparison: Comparison, part: Part, names: Sequence[str],
                columns: Sequence[Column]) -> list[str]:  # fmt: skip
    """A table: the unquantized model, then the rows of each recipe."""
    lines = [
        f"| {' | '.join((*_FIRST, *(c.heading for c in columns)))} |",
        "|" + "---|" * (len(_FIRST) + len(columns)),
    ]
    for name in (FLOAT, *names):
        for number, state in enumerate(comparison.states(part, name)):
            first = _described(comparison, name, state, number == 0)
            cells = [cell(state.row, c) for c in columns]
            if state.row is None:
                cells[0] = "not measured"
            lines.append(f"| {' | '.join([*first, *cells])} |")
    return lines


def _described(comparison: Comparison, name: str, state: State, first: bool) -> list[str]:
    way = WAYS[state.key.on] + {"stale": ", old", "printed": ", printed"}.get(state.state, "")
    if name == FLOAT:
        return ["float32", "W32A32 everywhere", "", way]
    recipe, known = comparison.recipes[name], comparison.hardware(name)
    kinds: dict[str, list[str]] = {}
    for site, kind in recipe.coverage().items():
        if kind != "float":
            kinds.setdefault(kind, []).append(site)
    if state.key.on == "golden" and known is not None and len(kinds) == 1:
        (sites,) = kinds.values()
        sites += [] if "head" in sites else ["head"]
        kinds[f"q, k, v {known.kv_format}"] = []
    if recipe.terms or any(step["step"] == "mixed-passes" for step in recipe.steps):
        kinds["some in two terms"] = []
    coverage = "; ".join(f"{k}: {', '.join(s)}" if s else k for k, s in kinds.items())
    bits = "" if known is None else f"{known.bits_per_weight:.2f}"
    return [f"`{recipe.name}`", coverage, bits, way]


def cell(row: Row | None, column: Column) -> str:
    """A figure with its interval; nothing where a row has none."""
    value = None if row is None else row.figure(column.figure)
    if value is None:
        return ""
    text = format(value.mean, column.form)
    return text if value.half_width is None else f"{text} ± {format(value.half_width, column.form)}"
