# SPDX-License-Identifier: Apache-2.0
"""`lutvar demo`: images from the simulated accelerator, compared bit by bit."""

from __future__ import annotations

from pathlib import Path

import click

from lutvar.files import json_text

from .common import (
    SEED,
    accelerator_option,
    command,
    json_option,
    model_option,
    out_option,
    recipe_option,
    require_simulator,
)
from .errors import FAILED, OK
from .sampling import class_option, labels_of

DEFAULT_SEED = 1  #: of the sheet in the README


@command("demo")
@out_option("Folder for the pictures and the reports.", "build/demo", folder=True)
@model_option
@accelerator_option
@recipe_option
@class_option("the first ten classes")
@click.option(
    "--seed", type=SEED, default=DEFAULT_SEED, help="Seed of the first image; the others follow."
)
@click.option("--slots", type=click.IntRange(1), help="Images at a time. Default: all.")
@click.option(
    "--stagger", type=click.IntRange(0), default=0, help="Passes between the starts of two images."
)
@click.option(
    "--edit",
    is_flag=True,
    help="Edit images of these classes, which the unquantized model draws first: in-painting, "
    "out-painting and editing towards another class in turn.",
)
@click.option(
    "--smooth/--no-smooth",
    default=None,
    help="Smooth sampling. Default: with --edit only.",
)
@click.option(
    "--decode",
    type=click.IntRange(0),
    metavar="N",
    help="Images that the simulated accelerator decodes too, the first N; their maps and pixels "
    "are compared. Default: 4, or all of fewer.",
)
@json_option
def demo(
    out: Path,
    model: str,
    config: str,
    recipe: Path | str | None,
    labels: tuple[int | str, ...],
    seed: int,
    slots: int | None,
    stagger: int,
    edit: bool,
    smooth: bool | None,
    decode: int | None,
    as_json: bool,
) -> int:
    """Generate images with transformer and decoder in simulated Verilog, and compare all of it.

    Writes sheet.png, timeline.png, roofline.png, report.html, report.md and report.json. Exit code
    1 when a record, a logit, a token, a map or an image differs from the golden model.
    """
    from lutvar.contract.accelerator import load_accelerator

    load_accelerator(config)  # first: a wrong name must not wait for torch
    require_simulator()
    from lutvar.sim.run.demo import run_demo

    report = run_demo(
        out,
        config=config,
        model=model,
        labels=labels_of(labels) or None,
        seed=seed,
        slots=slots,
        stagger=stagger,
        recipe=recipe,
        edit=edit,
        smooth=edit if smooth is None else smooth,
        decode=decode,
    )
    if as_json:
        click.echo(json_text(report.as_dict(), indent=2, default=str))
    return OK if report.ok else FAILED
