# SPDX-License-Identifier: Apache-2.0
"""`lutvar results`: every recipe on one model, as a record, a page and a picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lutvar.files import json_text, make_folder, prepare_output, write_file
from lutvar.text import table

from .common import (
    MARKDOWN,
    OutputFile,
    beside,
    command,
    emit,
    json_option,
    note,
    out_option,
    progress,
    refuse_with,
)
from .errors import FAILED, OK

if TYPE_CHECKING:
    from lutvar.quant.eval.record import State
    from lutvar.quant.eval.reference import Reference
    from lutvar.quant.eval.results import Comparison


@command("results")
@click.option(
    "--plan",
    type=click.Path(dir_okay=False, path_type=Path),
    help="What to compare. Default: lutvar/configs/results.yaml.",
)
@out_option("Working folder of files and samples, results.json.", "build/results", folder=True)
@click.option(
    "--markdown",
    type=OutputFile(*MARKDOWN),
    metavar="FILE",
    help="Write the page to FILE, the picture and the record (.jsonl) beside it. Default: "
    "results.md in the working folder.",
)
@click.option(
    "--only",
    multiple=True,
    metavar="RECIPE",
    help="Measure this recipe only, or float; repeat for several. The page has all rows of the "
    "record.",
)
@click.option("--again", is_flag=True, help="Measure rows that are in the record, too.")
@click.option("--page", is_flag=True, help="Measure nothing; write the page from the record.")
@click.option(
    "--list", "listing", is_flag=True, help="Only say where each row stands; exit code 1 if one "
    "is stale or missing.",
)  # fmt: skip
@click.option("--jobs", type=click.IntRange(1), help="Processes. Default: one per processor.")
@json_option
def results(
    plan: Path | None,
    out: Path,
    markdown: Path | None,
    only: tuple[str, ...],
    again: bool,
    page: bool,
    listing: bool,
    jobs: int | None,
    as_json: bool,
) -> int:
    """Quantize and evaluate every recipe; tables with intervals over seeds.

    Each row of the tables is a line of the record beside the page. Only rows that are missing, or
    whose recipe, model, arithmetic or settings have changed, are measured. Interrupt it at any
    time; the same command continues where it stopped.
    """
    from lutvar.quant.eval.methods import FLOAT
    from lutvar.quant.eval.record import Record
    from lutvar.quant.eval.reference import load_reference
    from lutvar.quant.eval.results import Comparison
    from lutvar.quant.eval.results_plan import load_plan

    if page and listing:
        raise click.UsageError("--page and --list exclude each other; choose one")
    if page or listing:
        refuse_with(
            "--page (measures nothing)" if page else "--list (measures nothing)",
            again="--again", only="--only", jobs="--jobs",
        )  # fmt: skip
    settings = load_plan(plan)
    unknown = [name for name in only if name not in (FLOAT, *settings.all_recipes())]
    if unknown:
        raise click.BadParameter(f"{unknown[0]!r} is no recipe of the plan", param_hint="--only")
    target = out / "results.md" if markdown is None else markdown
    if not listing:
        prepare_output(target)
    record = Record(beside(target, ".jsonl") or out / "results.jsonl")
    comparison = Comparison(settings, record, out)
    reference = load_reference(comparison.model)
    if not page and not listing:
        comparison.measure(progress, note, jobs, only, again)
    states = [state for _, state in comparison.all_states()]
    if listing:
        emit(as_json, [_described(state) for state in states], _table(states))
        return OK if all(s.state in ("done", "printed") for s in states) else FAILED
    data = _write(comparison, reference, target)
    text = "\n".join([f"written to {target}", *_lines(comparison)])
    emit(as_json, data, text)
    return OK


def _write(comparison: Comparison, reference: Reference, target: Path) -> dict[str, Any]:
    """Page, picture and results.json; the JSON values."""
    from lutvar.quant.eval.results import sheet_rows
    from lutvar.quant.eval.results_passes import draw_passes
    from lutvar.quant.eval.results_text import document_text
    from lutvar.sim.run.sheet import SheetRow, write_sheet

    words = {"golden": "golden model", "fake": "fake-quantized", "float": "unquantized"}
    rows = [SheetRow(name, words[on], images) for name, on, images in sheet_rows(comparison)]
    picture = beside(target, ".png")
    shown = [row.label for row in rows] if picture is not None else []
    curve = target.with_name(f"{target.stem}-passes.png")
    drawn = picture is not None and draw_passes(comparison, curve)
    write_file(target, document_text(comparison, reference, shown, curve.name if drawn else ""))
    if picture is not None and rows:
        names = comparison.model.info.classes[: len(rows[0].images_BCHW)]
        write_sheet(
            picture, rows, names, f"{comparison.plan.model}: one seed, several recipes",
            "Generated by the float model, by golden models, which compute what the accelerator "
            "does, and by fake-quantized ones.",
        )  # fmt: skip
    data = {
        "rows": [
            {**_described(state), "row": state.row.model_dump(mode="json") if state.row else None}
            for _, state in comparison.all_states()
        ],
        "measured_now": [{"task": task, **run.as_dict()} for task, run in comparison.runs],
    }
    make_folder(comparison.folder)
    write_file(comparison.folder / "results.json", json_text(data, indent=1) + "\n")
    return data


def _lines(comparison: Comparison) -> list[str]:
    from lutvar.quant.eval.results_order import best_lines, order_lines
    from lutvar.quant.eval.results_text import state_lines

    return [*state_lines(comparison), *order_lines(comparison), *best_lines(comparison)]


def _described(state: State) -> dict[str, Any]:
    key = state.key
    return {
        "recipe": key.recipe, "on": key.on, "task": key.task, "samples": key.samples,
        "seeds": list(key.seeds), "state": state.state, "why": state.why,
    }  # fmt: skip


def _table(states: list[State]) -> str:
    rows = [
        (s.key.recipe, s.key.on, s.key.task, f"{s.key.samples} x {len(s.key.seeds)}", s.state,
         s.row.date if s.row else "", s.why)
        for s in states
    ]  # fmt: skip
    return table(("recipe", "computed", "task", "images", "state", "measured", "why"), rows)
