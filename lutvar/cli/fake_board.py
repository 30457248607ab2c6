# SPDX-License-Identifier: Apache-2.0
"""`lutvar fake-board`: a tree of sysfs and /dev with an accelerator behind it, to be driven."""

from __future__ import annotations

import os
import subprocess
import tempfile
from contextlib import ExitStack
from pathlib import Path

import click

from lutvar.sim.memory import MEMORY_MIB

from .common import command, note, require_simulator


@command("fake-board")
@click.argument("config")
@click.argument("program", nargs=-1, type=click.UNPROCESSED)
@click.option(
    "--backend",
    type=click.Choice(["sim", "golden"]),
    default="sim",
    help="The accelerator: the Verilog, simulated, or the golden model, which is faster.",
)
@click.option(
    "--root",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Folder for the tree. Default, with a PROGRAM: a temporary one.",
)
@click.option(
    "--memory", type=click.IntRange(1, 4096), default=MEMORY_MIB, help="MiB of the buffer."
)
def fake_board(
    config: str, program: tuple[str, ...], backend: str, root: Path | None, memory: int
) -> int:
    """Serve a board for accelerator CONFIG whose files lie under DIR, until Ctrl-C.

    `LUTVAR_ROOT=DIR lutvar generate --device uio:lutvar` then drives it. With a PROGRAM, given
    after `--`, that is run with LUTVAR_ROOT set, and its exit code is the result.
    """
    from lutvar.contract.accelerator import load_accelerator

    accelerator = load_accelerator(config)
    if root is None and not program:
        raise click.UsageError("give --root DIR, or a program to run after --")
    if backend == "sim":
        require_simulator()
    from lutvar.host.board.files import MARK
    from lutvar.host.open import ROOT_VARIABLE

    with ExitStack() as opened:
        if root is None:
            root = Path(opened.enter_context(tempfile.TemporaryDirectory(prefix="lutvar-board-")))
        root = root.resolve()
        if root.exists() and any(root.iterdir()) and not (root / MARK).exists():
            raise click.UsageError(f"--root {root}: holds other files; name a new folder")
        from lutvar.sim.fakeboard.board import FakeBoard
        from lutvar.sim.fakeboard.chip import Chip, golden_chip, simulated_chip

        chip: Chip
        if backend == "sim":
            from lutvar.hw.accelerator.export import export

            note(f"building the simulation of {accelerator.name} (kept for the next time)")
            manifest = export(accelerator, Path("build/verilog"))
            chip = simulated_chip(manifest.verilog, memory << 20)
        else:
            chip = golden_chip(accelerator, memory << 20)
        board = FakeBoard(chip, root)
        opened.callback(board.close)
        if program:
            with board:
                environment = os.environ | {ROOT_VARIABLE: str(root)}
                return subprocess.run(program, env=environment, check=False).returncode
        click.echo(f"ready: {ROOT_VARIABLE}={root} and device uio:lutvar; Ctrl-C ends it")
        board.serve()
    return 0
