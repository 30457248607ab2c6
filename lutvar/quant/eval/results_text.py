# SPDX-License-Identifier: Apache-2.0
"""docs/results.md: the whole page, from a plan and a record."""

from __future__ import annotations

from collections.abc import Sequence

from lutvar.text import wrap_page

from .evaluate import NOTE
from .reference import Reference
from .results import Comparison
from .results_order import best_lines, order_lines
from .results_passes import passes_rows
from .results_tables import COLUMNS, EDIT_COLUMNS, cell, table_lines

_TASKS = {
    "inpaint": "In-painting: the box is drawn again, no class is asked for",
    "outpaint": "Out-painting: what is around the box is drawn again, no class is asked for",
    "edit": "Editing: the box is drawn again, the next class is asked for",
}


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


def passes_lines(comparison: Comparison, picture: str) -> list[str]:
    """The section of one recipe over the array's cycles; nothing without."""
    passes = comparison.plan.passes
    if passes is None:
        return []
    lines = [
        "",
        "## Precision over the array's cycles",
        "",
        f"`{passes.recipe}` with other budgets for second terms of operands, on the golden model. "
        "A budget is in percent of the cycles that the array takes with one term and one scale "
        "everywhere, which the dual format's second pass through fc2 would be a part of; "
        "`mixed-passes` spends it by integer programme, and weights are rounded for the inputs as "
        "they then are. A name that ends in a budget is that recipe with `budget` changed.",
        "",
        "| recipe | cycles, % more | Fréchet | Fréchet to float | KL, nat | same tokens |",
        "|---|---|---|---|---|---|",
    ]
    for name, row in passes_rows(comparison):
        known = None if row is None else row.hardware
        cycles = "" if known is None or known.more_cycles is None else f"{known.more_cycles:.1f}"
        cells = [cell(row, c) for c in COLUMNS[:4]]
        if row is None:
            cells[0] = "not measured"
        lines.append(f"| {' | '.join([f'`{name}`', cycles, *cells])} |")
    if picture:
        lines += ["", f"![KL and both Fréchet distances over cycles]({picture})"]
    return lines


def edit_lines(comparison: Comparison) -> list[str]:
    """The section of the editing tasks; nothing without."""
    parts = comparison.plan.edits
    if not parts:
        return []
    lines = [
        "",
        "## Editing tasks",
        "",
        f"{parts[0].samples} images for each of {len(parts[0].seeds)} seeds, all figures on the "
        "regenerated region: Fréchet against the given images, which the unquantized model drew; "
        "Fréchet, PSNR and tokens against the unquantized model's edit of the same image with the "
        "same seed; KL of the regenerated tokens. Kept tokens were the given ones in every image "
        "([evaluation.md](evaluation.md#editing-tasks)).",
    ]
    for part in parts:
        lines += ["", f"### {_TASKS[part.task]}", ""]
        lines += table_lines(comparison, part, part.recipes, EDIT_COLUMNS)
    return lines


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
            "Of rows marked *printed* the record has means and intervals only, no figures of "
            "single seeds."
        )
    old = [f"{s.key.id} ({s.why})" for s in states if s.state == "stale"]
    if old:
        lines.append(f"Old rows: {'; '.join(old)}.")
    missing = sum(s.state == "to do" for s in states)
    if missing:
        lines.append(
            f"{missing} rows are not measured yet; `lutvar results --markdown docs/results.md "
            "--list` names them."
        )
    return lines


def document_text(
    comparison: Comparison, reference: Reference, picture: Sequence[str], curve: str = ""
) -> str:
    """The whole page, Markdown.

    Args:
        comparison: plan and record.
        reference: what the samples were compared with.
        picture: rows of the picture beside the page; none: no picture.
        curve: name of the picture of `passes` beside the page; "": no picture.
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
    lines += edit_lines(comparison)
    lines += larger_lines(comparison)
    lines += passes_lines(comparison, curve)
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
