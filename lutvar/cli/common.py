# SPDX-License-Identifier: Apache-2.0
"""What the commands share: the command decorator, options, output as table or JSON, progress."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click

from lutvar.contract.seeds import MAX_SEED
from lutvar.files import json_text

_F = TypeVar("_F", bound=Callable[..., Any])

SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 100, "show_default": True}


def _set_debug(ctx: click.Context, _parameter: click.Parameter, value: bool) -> None:
    if value:
        ctx.find_root().meta["lutvar.debug"] = True


debug_option = click.option(
    "--debug",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=_set_debug,
    help="Show a traceback with every error.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
model_option = click.option(
    "--model", default="digits", metavar="NAME|DIR", help="A shipped model, or a model folder."
)
accelerator_option = click.option(
    "--config",
    default="small-fp4",
    metavar="NAME|FILE",
    help="A shipped accelerator size, or a .yaml file.",
)
recipe_option = click.option(
    "--quantized",
    "--recipe",
    "recipe",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="A file of `lutvar quantize` for this model. Default: round to nearest in the "
    "accelerator's formats.",
)
SEED = click.IntRange(0, MAX_SEED)
seed_option = click.option("--seed", type=SEED, default=0, help="Seed of everything random.")


class Number(click.FloatRange):
    """A finite number in a range; click's own lets NaN pass."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number", param, ctx)
        return number


def command(name: str) -> Callable[[_F], click.Command]:
    """A click command with the settings and the --debug option of all commands."""

    def wrap(function: _F) -> click.Command:
        return click.command(name, context_settings=SETTINGS)(debug_option(function))

    return wrap


def require_simulator() -> None:
    """Raise ToolError unless this machine can simulate: before the minutes that come first."""
    from lutvar.sim.tools import VERILATOR_HINT, verilator

    verilator().require(VERILATOR_HINT)


def out_option(
    what: str, default: str | None = None, *, folder: bool = False
) -> Callable[[_F], _F]:
    """-o/--out as a Path; required when there is no default."""
    # To click, default=None is a default: a required option must not pass it.
    given = {"required": True} if default is None else {"default": default}
    kind = click.Path(file_okay=not folder, dir_okay=folder, path_type=Path)
    metavar = "DIR" if folder else "FILE"
    return click.option("-o", "--out", type=kind, help=what, metavar=metavar, **given)


def emit(as_json: bool, data: Any, text: str) -> None:
    """Print data as JSON on standard output, or the text for people."""
    click.echo(json_text(data, indent=2, default=str) if as_json else text)


def note(text: str) -> None:
    """A remark for people; standard error, so that it does not get into JSON."""
    click.echo(text, err=True)


@contextmanager
def progress(label: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar on standard error as a callback (done, total); none when it is no terminal."""
    from tqdm import tqdm

    with tqdm(desc=label, leave=False, disable=None) as bar:

        def update(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield update
