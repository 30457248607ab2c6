# SPDX-License-Identifier: Apache-2.0
"""`lutvar sim`: the cocotb benches on the exported Verilog."""

from __future__ import annotations

from pathlib import Path

import click

from .common import command, emit, json_option, note, out_option, table
from .errors import FAILED, OK


@command("sim")
@click.argument("config", required=False)
@click.option(
    "--sim",
    "simulators",
    type=click.Choice(["verilator", "icarus"]),
    multiple=True,
    help="Simulator; repeat for several. Default: those installed.",
)
@out_option("Folder for builds and logs.", "build/cocotb", folder=True)
@json_option
def sim(config: str | None, simulators: tuple[str, ...], out: Path, as_json: bool) -> int:
    """Run the benches on the Verilog of CONFIG (default: a tiny accelerator).

    Exit code 1 when a bench fails.
    """
    from lutvar.sim.runner import run_benches
    from lutvar.sim.tools import icarus

    chosen = list(simulators)
    if not chosen:
        chosen = ["verilator"]
        if icarus().ok:
            chosen.append("icarus")
        else:
            note("note: Icarus Verilog is not installed; its runs are left out")
    results = [row for name in chosen for row in run_benches(name, config, build_dir=out)]
    failed = [row for row in results if not row.passed]
    rows = ((r.sim, r.bench, "pass" if r.passed else "FAIL", f"{r.seconds:.1f}") for r in results)
    text = table(("simulator", "bench", "result", "seconds"), rows)
    emit(
        as_json,
        [r.as_dict() for r in results],
        f"{text}\n\n{len(results) - len(failed)} passed, {len(failed)} failed",
    )
    return FAILED if failed else OK
