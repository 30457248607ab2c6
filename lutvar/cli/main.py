# SPDX-License-Identifier: Apache-2.0
"""Entry point of the `lutvar` command: the group, and how errors end a run.

Exit codes: 0 done and right, 1 a check failed, 2 wrong usage or unusable input, 130 interrupted,
143 terminated, 141 when nobody reads the output any more.
"""

from __future__ import annotations

import os
import sys
import traceback
import warnings
from collections.abc import Sequence

import click

import lutvar
from lutvar.stop import Terminated, raise_on_sigterm

from .bench import bench
from .board import board
from .common import SETTINGS, debug_option
from .coverage import coverage
from .decoder import decoder
from .demo import demo
from .disassemble import disassemble
from .doctor import doctor
from .edit import edit
from .errors import BAD_INPUT, OK, describe
from .estimate import estimate
from .evaluate import evaluate
from .evidence import evidence
from .explore import explore
from .export_vectors import export_vectors
from .fake_board import fake_board
from .formal import formal
from .fuzz import fuzz
from .generate import generate
from .inspect import inspect
from .listing import list_names
from .pack import pack
from .quality import quality
from .quantize import quantize
from .results import results
from .selftest import selftest
from .sim import sim
from .study import study
from .train import train
from .verilog import verilog
from .vivado import vivado

COMMANDS = (
    demo, generate, edit, quantize, pack, quality, evaluate, decoder, results, verilog, vivado,
    board, estimate, explore, disassemble, sim, fake_board, fuzz, formal, study, evidence,
    export_vectors, coverage, train, bench, list_names, inspect, doctor, selftest,
)  # fmt: skip
INTERRUPTED = 130  # 128 and the signal's number, as a shell reports it
TERMINATED = 143
BROKEN_PIPE = 141


class _Group(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return [c.name for c in COMMANDS if c.name]  # by use, not by alphabet


@click.group(cls=_Group, context_settings=SETTINGS, invoke_without_command=True)
@click.version_option(lutvar.__version__, prog_name="lutvar", message="%(prog)s %(version)s")
@debug_option
@click.pass_context
def cli(ctx: click.Context) -> None:
    """FP4/FP6 image generation on an FPGA: model, gateware and simulation, equal to the last bit.

    Start with `lutvar doctor`, then `lutvar demo`.
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


for _command in COMMANDS:
    cli.add_command(_command)


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command line (default: sys.argv); returns the exit code."""
    args = list(sys.argv[1:] if arguments is None else arguments)
    meta: dict[str, object] = {}
    try:
        with cli.make_context("lutvar", args) as ctx:
            meta = ctx.meta
            result = cli.invoke(ctx)
        return result if isinstance(result, int) else OK
    except click.exceptions.Exit as stop:
        return int(stop.exit_code)
    except click.ClickException as error:
        usage = getattr(error, "ctx", None)
        click.echo(f"error: {error.format_message()}", err=True)
        if usage is not None:
            click.echo(f"try: {usage.command_path} --help", err=True)
        return BAD_INPUT
    except BrokenPipeError:
        # Whoever read the output has enough, as `head` has: no message, and none at exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except (KeyboardInterrupt, click.Abort) as stop:
        # What was left half done warns of it when it is collected.
        warnings.simplefilter("ignore")
        word, code = "interrupted", INTERRUPTED
        if isinstance(stop, Terminated):
            word, code = "terminated", TERMINATED
        click.echo(f"{word}{f': {stop}' if str(stop) else ''}", err=True)
        return code
    except Exception as error:
        failure = describe(error)
        if meta.get("lutvar.debug"):
            traceback.print_exc()
        if failure is None:
            raise
        click.echo(f"error: {failure[0]}", err=True)
        return failure[1]


def main() -> None:
    """Console script."""
    raise_on_sigterm()
    sys.exit(run())


if __name__ == "__main__":
    main()
