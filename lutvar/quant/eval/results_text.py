# SPDX-License-Identifier: Apache-2.0
"""docs/results.md: tables, the paper's order, and the comparison of two recipes seed by seed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from lutvar.text import wrap_page

from .evaluate import NOTE
from .intervals import Interval, interval
from .record import Row, State
from .reference import Reference
from .results import Comparison
from .results_plan import Part
from .subject import FLOAT


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
_FIRST = ("recipe", "weights and inputs", "bits a weight", "computed")
_WAYS = {"golden": "golden model", "fake": "fake-quantized", FLOAT: "float32"}
_LAST_DIGITS = (("KL", COLUMNS[2]), ("Fréchet", COLUMNS[0]))


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
    way = _WAYS[state.key.on] + {"stale": ", old", "printed": ", printed"}.get(state.state, "")
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


def _mean(comparison: Comparison, name: str, column: Column) -> float:
    """Mean of a recipe in the main tables, fake-quantized; NaN where it is not known."""
    row = comparison.states(comparison.plan.main, name)[-1].row
    value = None if row is None else row.figure(column.figure)
    return math.nan if value is None else value.mean


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
        lines.append(
            f"* {heading}: worst of the paper's 4-bit rows is `{worst}` "
            f"({values[worst]:{column.form}}); `{plan.worst}` has "
            f"{values[plan.worst]:{column.form}}. Best is `{best}` "
            f"({values[best]:{column.form}}); `{plan.plain}` has "
            f"{values[plan.plain]:{column.form}}."
        )
    kl, frechet = (column for _, column in _LAST_DIGITS)
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
            continue
        for heading, figure, form in (
            ("Fréchet", "samples.frechet", ".3f"),
            ("Fréchet to float", "paired.frechet", ".4f"),
            ("KL", "forced.kl_nats", ".5f"),
        ):
            ci = interval(difference(*rows, figure))
            key = rows[0].key
            lines.append(
                f"* {_WAYS[on]}, {key.samples} images, {len(key.seeds)} seeds: {heading} "
                f"{_difference(ci, form)}."
            )
    return lines or ["Neither has been measured seed by seed yet."]


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


def larger_lines(comparison: Comparison) -> list[str]:
    """The section with more samples for a few recipes; nothing without."""
    part = comparison.plan.larger
    if part is None:
        return []
    return [
        "",
        "## More samples for the main recipes",
        "",
        f"{part.samples} images for each of {len(part.seeds)} seeds. A Fréchet distance falls "
        "with the number of images: compare the rows of this table with each other only.",
        "",
        *table_lines(comparison, part, part.recipes, COLUMNS),
    ]


def state_lines(comparison: Comparison) -> list[str]:
    """What the tables are made of: when, with which version, and what of it is old or missing."""
    states = [state for _, state in comparison.all_states()]
    rows = [s.row for s in states if s.row is not None and s.row.source == "measured"]
    lines = []
    if rows:
        dates, versions = sorted({r.date for r in rows}), sorted({r.lutvar for r in rows})
        span = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
        lines.append(f"{len(rows)} rows measured {span} with lutvar {', '.join(versions)}.")
    if any(s.state == "printed" for s in states):
        lines.append(
            "Rows marked *printed* were measured before there was a record, by the same recipe on "
            "the same model: their means and intervals are those of the page of that time, and "
            "the figures of single seeds are lost."
        )
    for state, text in (("stale", "Old rows"), ("to do", "Not measured yet")):
        named = [f"{s.key.id}" + (f" ({s.why})" if s.why else "") for s in states
                 if s.state == state]  # fmt: skip
        if named:
            lines.append(f"{text}: {'; '.join(named)}.")
    return lines


def document_text(comparison: Comparison, reference: Reference, picture: Sequence[str]) -> str:
    """The whole page, Markdown.

    Args:
        comparison: plan and record.
        reference: what the samples were compared with.
        picture: rows of the picture beside the page; none: no picture.
    """
    plan, real = comparison.plan, reference.real
    lines = [
        "# Results",
        "",
        f"Every recipe on the shipped model `{plan.model}`, made by one command from the record "
        "beside this page:",
        "",
        "    lutvar results -o build/results --markdown docs/results.md",
        "",
        f"{plan.samples} images for each of {len(plan.seeds)} seeds; intervals are 95 % over the "
        f"seeds (Student t). KL is the mean over all tokens of {plan.teacher} images with given "
        "coarser tokens, conditional half. [evaluation.md](evaluation.md) says what each figure "
        "is, [methods.md](methods.md) where each method comes from.",
        "",
        "A recipe that the accelerator runs has two rows. *Golden model* is what the device "
        "computes, to the bit: head, attention records, tables and FP16 vectors included. "
        "*Fake-quantized* is what publications measure, rounded values in the float model, where "
        "what a recipe does not name stays float. For the others there is only the second.",
        "",
        f"**All figures use the {NOTE}.** A Fréchet distance depends on the number of images; real "
        f"training images reach {real.train_to_test:.2f} against the test images with all of them.",
    ]
    for line in state_lines(comparison):
        lines += ["", line]
    for group in plan.groups:
        lines += ["", f"## {group.title}", ""]
        lines += table_lines(comparison, plan.main, group.recipes, COLUMNS)
    lines += larger_lines(comparison)
    lines += [
        "",
        "## The paper's order",
        "",
        "Fake-quantized, as the paper measures:",
        "",
        *order_lines(comparison),
    ]
    lines += [
        "",
        f"## `{plan.best}` against `{plan.plain}`",
        "",
        "Differences seed by seed (same seeds, same random streams):",
        "",
        *best_lines(comparison),
    ]
    lines += ["", "## What needs hardware that does not exist", ""]
    for name in plan.recipes():
        known = comparison.hardware(name)
        if known is not None and not known.runs:
            lines.append(f"* `{comparison.recipes[name].name}`: {'; '.join(known.missing)}")
    if picture:
        lines += [
            "",
            "## The same seeds",
            "",
            f"![{', '.join(picture)}: same classes and seeds in each column](results.png)",
        ]
    return wrap_page("\n".join(lines) + "\n")
