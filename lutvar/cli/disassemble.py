# SPDX-License-Identifier: Apache-2.0
"""`lutvar disassemble`: a program of the accelerator as text."""

from __future__ import annotations

from typing import BinaryIO, cast

import click

from .common import command


@command("disassemble")
@click.argument("file", type=click.Path(dir_okay=False, allow_dash=True))
def disassemble(file: str) -> None:
    """Print the program in FILE (- for standard input), one line per instruction.

    What is not a program is refused as soon as its first bytes say so.
    """
    from lutvar.contract.isa import ProgramError
    from lutvar.host.compile.disassemble import disassemble as lines
    from lutvar.host.compile.program import Program

    with cast(BinaryIO, click.open_file(file, "rb")) as stream:
        try:
            program = Program.read(stream)
        except ProgramError as error:
            raise ProgramError(f"{'standard input' if file == '-' else file}: {error}") from error
    for line in lines(program):
        click.echo(line)
