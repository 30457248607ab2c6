# SPDX-License-Identifier: Apache-2.0
"""`lutvar board`: what goes onto the card of a board."""

from __future__ import annotations

from pathlib import Path

import click

from .common import SETTINGS, command, debug_option, emit, json_option, out_option


@click.group("board", context_settings=SETTINGS)
@debug_option
def board() -> None:
    """Prepare the card of a board."""


@command("install")
@click.argument("results", type=click.Path(file_okay=False, path_type=Path))
@click.option(
    "--image",
    "images",
    type=click.Path(dir_okay=False, path_type=Path),
    multiple=True,
    metavar="FILE",
    help="A model of `lutvar pack` for this accelerator; may be given several times.",
)
@click.option(
    "--reference",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="References of `lutvar selftest --record`, for the board's own test.",
)
@out_option("Folder to write.", "build/board", folder=True)
@json_option
def install(
    results: Path, images: tuple[Path, ...], reference: Path | None, out: Path, as_json: bool
) -> None:
    """Lay out what goes onto the card, and print the commands that are left.

    RESULTS is the folder that a build in Vivado left. Every file is compared with its SHA-256, and
    a model has to be packed for the accelerator that is in the image.
    """
    from lutvar.host.board.install import install as lay_out

    done = lay_out(results, out, images, reference)
    rows = [f"{out}: {len(done.files)} files", *(f"  {name}" for name in done.files), "next:"]
    emit(
        as_json,
        {"folder": str(out), "files": list(done.files), "commands": list(done.commands)},
        "\n".join([*rows, *(f"  {line}" for line in done.commands)]),
    )


board.add_command(install)
