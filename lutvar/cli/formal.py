# SPDX-License-Identifier: Apache-2.0
"""`lutvar formal`: unbounded proofs about the exported Verilog."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from lutvar.environment import cores
from lutvar.files import json_text, make_folder, prepare_output, write_file
from lutvar.text import table

from .common import (
    MARKDOWN,
    Number,
    OutputFile,
    command,
    emit,
    json_option,
    note,
    out_option,
    refuse_with,
)
from .errors import FAILED, OK

if TYPE_CHECKING:
    from lutvar.sim.formal.run import Result


@command("formal")
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--list", "only_list", is_flag=True, help="List the properties; prove nothing.")
@click.option("--mutants", is_flag=True, help="Prove that faults are found, see below.")
@click.option(
    "-j",
    "--jobs",
    type=click.IntRange(1),
    default=cores,
    show_default="number of cores",
    help="Proofs at the same time.",
)
@click.option(
    "--seconds",
    type=Number(0, min_open=True),
    help="Time limit of each proof, in place of its own.",
)
@click.option(
    "--page",
    type=OutputFile(*MARKDOWN),
    metavar="FILE",
    help="Write the table of all properties into a Markdown page, between its marks.",
)
@out_option("Folder for logs, traces and report.json.", "build/formal", folder=True)
@json_option
def formal(
    names: tuple[str, ...],
    only_list: bool,
    mutants: bool,
    jobs: int,
    seconds: float | None,
    page: Path | None,
    out: Path,
    as_json: bool,
) -> int:
    """Prove properties of the exported Verilog: all, or those whose names or groups are given.

    The proofs hold for every input and any number of cycles. A property that fails leaves a
    counterexample as a VCD file. Results are kept in the folder and hold until the Verilog or the
    property changes.

    --mutants puts small faults into the gateware, one at a time, and expects a counterexample for
    each: a property that a fault does not break would be worth nothing.

    Exit code 1 when a property is not proved, or a fault is not found.
    """
    from lutvar.sim.formal.run import choose, prove_all
    from lutvar.sim.formal.table import write_page

    if only_list:
        refuse_with(
            "--list (proves nothing)", page="--page", mutants="--mutants", jobs="--jobs",
            seconds="--seconds", out="--out",
        )  # fmt: skip
    items = choose(names)
    if only_list:
        rows = [
            (i.name, i.module, i.statement, ", ".join(m.name for m in i.mutants)) for i in items
        ]
        data = [dict(zip(("name", "module", "statement", "mutants"), r, strict=True)) for r in rows]
        emit(as_json, data, table(("property", "module", "what holds", "mutants"), rows))
        return OK
    if page is not None:
        prepare_output(page)
        if mutants:
            raise click.UsageError("--page lists proofs; leave --mutants out")
    make_folder(out)
    results = prove_all(
        items, mutants=mutants, folder=out, jobs=jobs, seconds=seconds, on_done=_tell
    )
    outcomes = [r.as_dict() for r in results]
    report = out / ("mutants.json" if mutants else "report.json")
    write_file(report, json_text(outcomes, indent=2) + "\n")
    failed = [r for r in results if not r.ok]
    if page is not None:
        write_page(page, results)
    what = "faults found" if mutants else "proved"
    lines = [f"{r.title}: {_why(r)}" for r in failed]
    emit(as_json, outcomes, "\n".join([*lines, f"{len(results) - len(failed)} {what}, "
                                           f"{len(failed)} failed"]))  # fmt: skip
    note(f"written: {report}")
    return FAILED if failed else OK


def _tell(result: Result) -> None:
    note(f"{result.title}: {result.status}, {result.seconds:.1f} s")


def _why(result: Result) -> str:
    if result.mutant and result.status == "proved":
        return "proved in spite of the fault: the property does not bite"
    trace = f" (trace: {result.trace})" if result.trace else ""
    return f"{result.status}: {result.detail}{trace}"
