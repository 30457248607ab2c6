# SPDX-License-Identifier: Apache-2.0
"""`lutvar sim`: the cocotb testbenches on the exported Verilog."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, get_args

import click

from lutvar.files import prepare_output, write_file
from lutvar.text import table

from .common import (
    OutputFile,
    command,
    emit,
    json_option,
    note,
    out_option,
    regular_expression,
    seed_option,
)
from .errors import FAILED, OK

if TYPE_CHECKING:
    from lutvar.sim.runner import SimulationResult, Simulator


@command("sim")
@click.argument("config", required=False)
@click.option(
    "--sim",
    "simulators",
    type=click.Choice(["verilator", "icarus"]),
    multiple=True,
    help="Simulator; repeat for several. Default: those installed.",
)
@click.option(
    "--match",
    metavar="REGEX",
    callback=regular_expression,
    help="Run only the tests whose name matches.",
)
@click.option(
    "--junit",
    type=OutputFile(".xml"),
    metavar="FILE",
    help="Write the results as JUnit XML too, for a CI system.",
)
@click.option("--waves", is_flag=True, help="Write a wave file beside the log.")
@seed_option
@out_option("Folder for builds and logs.", "build/cocotb", folder=True)
@json_option
def sim(
    config: str | None,
    simulators: tuple[str, ...],
    match: str | None,
    junit: Path | None,
    waves: bool,
    seed: int,
    out: Path,
    as_json: bool,
) -> int:
    """Run the testbenches on the Verilog of CONFIG, an accelerator preset or YAML file.

    Default: small-fp4 on Verilator; a tiny accelerator on Icarus. Icarus runs some 40 cycles a
    second, so it runs part of the tests unless --match chooses others.

    Exit code 1 when a test fails.
    """
    from lutvar.sim.junit import junit as junit_xml
    from lutvar.sim.runner import RunError, Simulator, run_testbenches

    if junit is not None:
        prepare_output(junit)
    selection = [name for name in get_args(Simulator) if name in simulators] or _installed()
    results: list[SimulationResult] = []
    for name in selection:
        note(f"{name}: export, build and run (log files in {out}) ...")
        try:
            results += run_testbenches(
                name, config, build_dir=out, test_filter=match, seed=seed, waves=waves
            )
        except RunError as error:
            if junit is not None:
                write_file(junit, junit_xml(results, {name: str(error)}))
            raise
    if junit is not None:
        write_file(junit, junit_xml(results))
    failed = [row for row in results if not row.passed]
    rows = ((r.sim, r.bench, "pass" if r.passed else "FAIL", f"{r.seconds:.1f}") for r in results)
    lines = [
        table(("simulator", "bench", "result", "seconds"), rows),
        *(f"{row.sim} {row.bench}: {row.message}" for row in failed),
        "",
        f"{len(results) - len(failed)} passed, {len(failed)} failed",
    ]
    emit(as_json, [row.as_dict() for row in results], "\n".join(lines))
    return FAILED if failed else OK


def _installed() -> list[Simulator]:
    """Verilator, which is needed, and Icarus when it is there."""
    from lutvar.sim.tools import icarus

    if icarus().ok:
        return ["verilator", "icarus"]
    note("note: Icarus Verilog is not installed; its runs are left out")
    return ["verilator"]
