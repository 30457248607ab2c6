# SPDX-License-Identifier: Apache-2.0
"""`lutvar coverage`: what testbenches and an image cover of the exported Verilog."""

from __future__ import annotations

import json
from pathlib import Path

import click

from .common import (
    command,
    emit,
    json_option,
    note,
    out_option,
    refuse_with,
    regular_expression,
    require_simulator,
)
from .errors import FAILED, OK


@command("coverage")
@click.argument("configs", nargs=-1, metavar="[CONFIG]...")
@click.option(
    "--match",
    metavar="REGEX",
    callback=regular_expression,
    help="Only the testbenches whose name matches.",
)  # fmt: skip
@click.option(
    "--page",
    type=click.Path(dir_okay=False, exists=True, path_type=Path),
    metavar="FILE",
    help="Run nothing; put the figures of the folder into this page, and coverage.json beside it.",
)
@out_option("Folder for builds, logs and figures.", "build/coverage-hw", folder=True)
@json_option
def coverage(
    configs: tuple[str, ...], match: str | None, page: Path | None, out: Path, as_json: bool
) -> int:
    """Count the lines, signals, states and instruction fields that the simulations move.

    CONFIG: accelerators; by default three tiny ones that have every form of every part (tiny-fp4,
    tiny-sections-fp6, tiny-da-dsp-fp4). Writes coverage.json and coverage.md.

    Exit code 1 when a testbench or an image is wrong.
    """
    if page is not None:
        refuse_with("--page (runs nothing)", configs="CONFIG", match="--match", as_json="--json")
        from lutvar.sim.coverage.report import update_page

        source = out / "coverage.json"
        if not source.exists():
            raise click.UsageError(f"{source} is missing; run lutvar coverage -o {out} first")
        update_page(page, json.loads(source.read_text(encoding="utf-8")))
        return OK
    require_simulator()
    from lutvar.contract.accelerator import load_accelerator
    from lutvar.sim.coverage.report import as_dict, block, write_report
    from lutvar.sim.coverage.run import configurations, run_coverage

    tiny = {config.name: config for config in configurations()}
    chosen = [tiny.get(name) or load_accelerator(name) for name in configs or tiny]
    result = run_coverage(
        chosen, out, note, test_filter=match, after=lambda part: write_report(part, out)
    )
    data = as_dict(result)
    emit(as_json, data, block(data))
    return OK if result.ok else FAILED
