# SPDX-License-Identifier: Apache-2.0
"""`lutvar demo`: images from the simulated accelerator, compared bit by bit."""

from __future__ import annotations

import json
from pathlib import Path

import click

from .common import command, hardware_option, json_option, out_option
from .errors import FAILED, OK

DEFAULT_SEED = 1  #: of the sheet in the README


@command("demo")
@out_option("Folder for the sheet and the reports.", "build/demo", folder=True)
@hardware_option
@click.option(
    "--class",
    "labels",
    type=int,
    multiple=True,
    metavar="N",
    help="Class to draw; repeat for several. Default: every class once.",
)
@click.option("--seed", default=DEFAULT_SEED, help="Seed of the sampling.")
@json_option
def demo(out: Path, hardware: str, labels: tuple[int, ...], seed: int, as_json: bool) -> int:
    """Generate images with every large matrix product in simulated Verilog, and compare all of it.

    Writes sheet.png, report.html, report.md and report.json. Exit code 1 when a code, a result, a
    token or an image differs from the golden model.
    """
    from lutvar.demo.job import run_demo

    chosen = labels or tuple(range(10))
    report = run_demo(out, hardware=hardware, labels=chosen, seed=seed, progress=True)
    if as_json:
        click.echo(json.dumps(report.as_dict(), indent=2, default=str))
    return OK if report.ok else FAILED
