# SPDX-License-Identifier: Apache-2.0
"""`lutvar disassemble`: a program of the accelerator as text."""

from __future__ import annotations

from pathlib import Path

import click

from .common import command


@command("disassemble")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
def disassemble(file: Path) -> None:
    """Print the program in FILE, one line an instruction, and refuse what is not a program."""
    from lutvar.host.compile.disassemble import disassemble as lines
    from lutvar.host.compile.program import Program

    for line in lines(Program.decode(file.read_bytes())):
        click.echo(line)
