# SPDX-License-Identifier: Apache-2.0
"""Statements of docs/results.md: the paper's order, and one recipe against another seed by seed."""

from __future__ import annotations

import math
from collections.abc import Mapping

from .intervals import Interval, interval
from .methods import FLOAT
from .record import Row
from .results import Comparison
from .results_plan import Part
from .results_tables import COLUMNS, WAYS, Column, cell

_LAST_DIGITS = (("KL", COLUMNS[2]), ("Fréchet", COLUMNS[0]))


def _mean(comparison: Comparison, name: str, column: Column) -> float:
    """Mean of a recipe in the main tables, fake-quantized; NaN where it is not known."""
    row = comparison.states(comparison.plan.main, name)[-1].row
    value = None if row is None else row.figure(column.figure)
    return math.nan if value is None else value.mean


def _beside(name: str, other: str, shown: Mapping[str, str]) -> str:
    """A recipe with its figure, and the one of another."""
    text = f"`{name}` ({shown[name]})"
    return text if other == name else f"{text}; `{other}` has {shown[other]}"


def order_lines(comparison: Comparison) -> list[str]:
    """The order that the FPQVAR paper reports, each statement with the figures of this run."""
    plan = comparison.plan
    four = [
        name for name, recipe in comparison.recipes.items()
        if {spec.weight.bits for spec in recipe.layers.values() if spec.weight} == {4}
    ]  # fmt: skip
    paper = [n for n in plan.groups[0].recipes if n in four]
    lines = []
    for heading, column in _LAST_DIGITS:
        values = {n: _mean(comparison, n, column) for n in {*paper, plan.plain, plan.worst}}
        ranked = sorted((n for n in paper if not math.isnan(values[n])), key=values.__getitem__)
        if not ranked:
            continue
        worst, best = ranked[-1], ranked[0]

        shown = {name: f"{value:{column.form}}" for name, value in values.items()}
        lines.append(
            f"* {heading}: worst of the paper's 4-bit rows is {_beside(worst, plan.worst, shown)}. "
            f"Best is {_beside(best, plan.plain, shown)}."
        )
    kl, frechet = (column for _, column in _LAST_DIGITS)
    if math.isnan(_mean(comparison, plan.six, kl) + _mean(comparison, FLOAT, frechet)):
        return lines
    lines.append(
        f"* `{plan.six}` is near the float model: Fréchet "
        f"{_mean(comparison, plan.six, frechet):.2f} against "
        f"{_mean(comparison, FLOAT, frechet):.2f}, KL {_mean(comparison, plan.six, kl):.4f}."
    )
    return lines


def pair(comparison: Comparison, on: str) -> tuple[Row, Row] | None:
    """Rows of the best recipe and of the plain one, of the larger part if both are there."""
    plan = comparison.plan
    for part in (plan.larger, plan.main):
        rows = (
            [] if part is None else [_of(comparison, part, n, on) for n in (plan.best, plan.plain)]
        )
        if len(rows) == 2 and all(row is not None and row.runs for row in rows):
            assert rows[0] is not None and rows[1] is not None
            return rows[0], rows[1]
    return None


def _of(comparison: Comparison, part: Part, name: str, on: str) -> Row | None:
    return next((s.row for s in comparison.states(part, name) if s.key.on == on), None)


def best_lines(comparison: Comparison) -> list[str]:
    """The best recipe against plain FPQVAR: differences seed by seed, with their interval."""
    lines = []
    for on in ("golden", "fake"):
        rows = pair(comparison, on)
        if rows is None:
            lines += _printed_lines(comparison, on)
            continue
        for heading, figure, form in (
            ("Fréchet", "samples.frechet", ".3f"),
            ("Fréchet to float", "paired.frechet", ".4f"),
            ("KL", "forced.kl_nats", ".5f"),
        ):
            ci = interval(difference(*rows, figure))
            key = rows[0].key
            lines.append(
                f"* {WAYS[on]}, {key.samples} images, {len(key.seeds)} seeds: {heading} "
                f"{_difference(ci, form)}."
            )
    return lines or ["Neither has been measured seed by seed yet."]


def _printed_lines(comparison: Comparison, on: str) -> list[str]:
    """The two side by side, where the figures of single seeds are lost."""
    plan = comparison.plan
    for part in (plan.larger, plan.main):
        names = () if part is None else (plan.best, plan.plain)
        rows = [_of(comparison, part, name, on) for name in names if part is not None]
        best, plain = rows if len(rows) == 2 else (None, None)
        if best is not None and plain is not None:
            figures = (f"{c.heading} {cell(best, c)} against {cell(plain, c)}" for c in COLUMNS[:3])
            return [
                f"* {WAYS[on]}, {best.key.samples} images, {len(best.key.seeds)} seeds, not seed "
                f"by seed: {'; '.join(figures)}."
            ]
    return []


def difference(row: Row, base: Row, figure: str) -> list[float]:
    """Difference of a figure, seed by seed, in the order of seeds."""
    return [a - b for a, b in zip(row.values(figure), base.values(figure), strict=True)]


def _difference(ci: Interval, form: str) -> str:
    assert ci.half_width is not None
    text = f"{ci.mean:+{form}} ± {ci.half_width:{form}}"
    if not math.isfinite(ci.mean):
        return text
    if abs(ci.mean) <= ci.half_width:
        return f"{text}: within the interval of the seeds, no difference shown"
    return f"{text}: {'better' if ci.mean < 0 else 'worse'}, beyond the interval of the seeds"
