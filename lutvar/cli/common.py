# SPDX-License-Identifier: Apache-2.0
"""What the commands share: the command decorator, options, output as table or JSON, progress."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click

from lutvar.contract.seeds import MAX_SEED
from lutvar.files import json_text
from lutvar.progress import as_callback, progress_bar

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


class FileOrRecipe(click.Path):
    """A file of `lutvar quantize` as a path, or a recipe, by name or as a YAML file, as text."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The path of an existing file, else the name of a recipe that is there."""
        if isinstance(value, Path):
            return value
        from lutvar.yaml_files import shipped

        path = Path(value)
        if path.is_file():
            return value if path.suffix in (".yaml", ".yml") else path
        if value in shipped("recipes"):
            return str(value)
        self.fail(
            f"{value!r} is neither a file nor a shipped recipe; make a file with `lutvar "
            "quantize`, or name a recipe of docs/results.md", param, ctx,
        )  # fmt: skip


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
    type=FileOrRecipe(),
    metavar="FILE|NAME",
    help="A file of `lutvar quantize` for this model, or a shipped recipe, which is carried out "
    "first. Default: round to nearest in the accelerator's formats.",
)
presets_option = click.option(
    "--preset",
    "presets",
    multiple=True,
    default=("fp4", "fp6"),
    metavar="NAME|FILE",
    help="Quantization preset; repeat for several.",
)
#: Endings of Markdown pages.
MARKDOWN = (".md", ".markdown")
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


def given(name: str) -> bool:
    """Whether the user gave this parameter of the current command."""
    source = click.get_current_context().get_parameter_source(name)
    return source is click.core.ParameterSource.COMMANDLINE


def refuse_with(what: str, **options: str) -> None:
    """Refuse options that would be ignored.

    Args:
        what: the option or value that has no use for them.
        options: parameter name -> the option as the user types it.

    Raises:
        UsageError: one of them was given.
    """
    for name, option in options.items():
        if given(name):
            raise click.UsageError(f"{what} makes no use of {option}; leave one of them out")


def regular_expression(
    _ctx: click.Context, _parameter: click.Parameter, value: str | None
) -> str | None:
    """Callback of options: refuse what is no regular expression, before anything is made."""
    try:
        re.compile(value or "")
    except re.error as error:
        raise click.BadParameter(f"{value!r} is no regular expression: {error}") from None
    return value


def require_simulator() -> None:
    """Raise ToolError unless this machine can simulate: before the minutes that come first."""
    from lutvar.sim.tools import VERILATOR_HINT, verilator

    verilator().require(VERILATOR_HINT)


class OutputFile(click.Path):
    """A file to write, of one format: its name must not promise another one.

    Without an ending any name will do, and so will a device or a pipe.

    Args:
        endings: those of the format, the usual one first; none: any name is right.
    """

    def __init__(self, *endings: str) -> None:
        super().__init__(dir_okay=False, path_type=Path)
        self.endings = endings

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        path: Path = super().convert(value, param, ctx)  # type: ignore[assignment]
        device = path.exists() and not path.is_file()
        right = not self.endings or not path.suffix or path.suffix.lower() in self.endings
        if not right and not device:
            self.fail(
                f"{path}: this command writes {' or '.join(self.endings)}, not {path.suffix}; use "
                f"{path.with_suffix(self.endings[0]).name}",
                param,
                ctx,
            )
        return path


def beside(path: Path, ending: str) -> Path | None:
    """The second file of a command, named like the first one; None when that is a device."""
    return None if path.exists() and not path.is_file() else path.with_suffix(ending)


def out_option(
    what: str, default: str | None = None, *, folder: bool = False, endings: Sequence[str] = ()
) -> Callable[[_F], _F]:
    """-o/--out as a Path; required when there is no default.

    Args:
        what: help text.
        default: the path without the option.
        folder: it is one.
        endings: of a file, see `OutputFile`.
    """
    # To click, default=None is a default: a required option must not pass it.
    extra = {"required": True} if default is None else {"default": default}
    kind = click.Path(file_okay=False, path_type=Path) if folder else OutputFile(*endings)
    metavar = "DIR" if folder else "FILE"
    return click.option("-o", "--out", type=kind, help=what, metavar=metavar, **extra)


def emit(as_json: bool, data: Any, text: str) -> None:
    """Print data as JSON on standard output, or the text for people."""
    click.echo(json_text(data, indent=2, default=str) if as_json else text)


def note(text: str) -> None:
    """A remark for people, on standard error: it must not get into JSON."""
    click.echo(text, err=True)


@contextmanager
def progress(label: str) -> Iterator[Callable[[int, int], None]]:
    """Progress on standard error as a callback (done, total)."""
    with progress_bar(label, leave=False) as bar:
        yield as_callback(bar)
