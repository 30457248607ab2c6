# SPDX-License-Identifier: Apache-2.0
"""`lutvar explore`: the sizes of an accelerator by search, and the Pareto front of all tried."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lutvar.environment import cores
from lutvar.files import json_text, make_folder, write_file

from .common import Number, command, emit, json_option, out_option, progress, seed_option
from .estimate import MAX_CLOCK, shape_of

if TYPE_CHECKING:
    from lutvar.contract.unit_costs import UnitPoint
    from lutvar.sim.explore.quality import Quality
    from lutvar.sim.explore.space import Space, Value

_PICKS = ("latency", "throughput", "balanced")
#: The record of results of a checkout.
_RECORD = Path(__file__).parents[2] / "docs" / "results.jsonl"


@command("explore")
@click.option(
    "--space",
    "space_name",
    default="vck190-fp4",
    metavar="NAME|FILE",
    help="What to search: a shipped space, or a .yaml file.",
)
@click.option(
    "--model",
    default="d30",
    metavar="NAME",
    help="A released size (d16 ... d36-s), a shipped model, or a model folder.",
)
@click.option(
    "--trials",
    type=click.IntRange(0),
    default=200,
    help="Trials in the storage when the search ends, those of earlier runs included. 0: only "
    "show what is there.",
)
@click.option("--jobs", type=click.IntRange(1), help="Processes. Default: one for each processor.")
@click.option(
    "--storage",
    metavar="FILE|URL",
    help="Where trials are kept: a file, or a database such as sqlite:///FILE. Several processes "
    "and machines may share it. Default: trials.log in the output folder.",
)
@click.option(
    "--set",
    "changes",
    multiple=True,
    metavar="KEY=VALUE[,VALUE]",
    help="Values of a field instead of the space's, for example rows=320,336,352.",
)
@click.option(
    "--clock",
    "clocks",
    type=Number(0, MAX_CLOCK, min_open=True),
    multiple=True,
    metavar="MHZ",
    help="Clock instead of the space's; repeat for several.",
)
@click.option(
    "--recipe",
    "recipes",
    multiple=True,
    metavar="NAME",
    help="Recipe instead of the space's; repeat for several.",
)
@click.option(
    "--preset",
    metavar="NAME",
    help="Preset of the model instead of the space's, where no recipe says it, for example "
    "fp4-single.",
)
@click.option(
    "--results",
    type=click.Path(dir_okay=False, path_type=Path),
    default=_RECORD,
    show_default="docs/results.jsonl of the checkout",
    help="Record of `lutvar results` with the KL of the recipes.",
)
@click.option(
    "--costs",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Synthesised units of `python -m lutvar.bench.measure --file FILE` instead of those that "
    "come with lutvar.",
)
@click.option("--max-kl", type=Number(0, min_open=True), metavar="NAT", help="Largest KL.")
@click.option("--no-guidance", is_flag=True, help="Conditional rows only.")
@click.option(
    "--pick",
    "picks",
    type=click.Choice(_PICKS),
    multiple=True,
    help="Write the accelerator that is fastest for one image alone, for images staggered over "
    "the scales, or in the geometric mean of both; repeat for several.",
)
@click.option(
    "--name", metavar="NAME", help="Name of the picked accelerator. Default: space and pick."
)
@seed_option
@out_option("Folder of front.json, front.png and picks.", "build/explore", folder=True)
@json_option
def explore(
    space_name: str, model: str, trials: int, jobs: int | None, storage: str | None,
    changes: tuple[str, ...], clocks: tuple[float, ...], recipes: tuple[str, ...],
    preset: str | None, results: Path,
    costs: Path | None, max_kl: float | None, no_guidance: bool, picks: tuple[str, ...],
    name: str | None, seed: int, out: Path, as_json: bool,
) -> None:  # fmt: skip
    """Search for the sizes of an accelerator for one model.

    Candidates are judged by their resources (synthesised units against shares of the device) and
    by the cycle model. A space that has no more candidates than --trials is tried as a whole;
    otherwise Optuna's TPE sampler chooses, for latency of one image alone, image/s staggered,
    image/s per LUT and KL of the recipe at once. Interrupt it at any time; the same command goes
    on. All speeds are modelled.
    """
    import matplotlib  # noqa: F401  for the picture: better missed now than after the search

    from lutvar.sim.explore.front import (
        front_dict,
        front_text,
        pareto,
        pick,
        require_feasible,
        write_pick,
    )
    from lutvar.sim.explore.picture import draw_front
    from lutvar.sim.explore.study import Exploration
    from lutvar.sim.explore.trial import Task
    from lutvar.sim.explore.workers import explore as run

    if name is not None and len(picks) != 1:
        raise click.UsageError("--name names one accelerator: give one --pick with it")
    space = _space(space_name, changes, clocks, recipes, preset, max_kl)
    points = None if costs is None else tuple(_points(costs))
    shape, quality = shape_of(model), _quality(space, results)
    task = Task(space, model, shape, quality, not no_guidance, points)
    exploration = Exploration(task, storage or str(out / "trials.log"), seed)
    with progress(f"trying {space.name}") as update:
        run(
            exploration, trials, jobs or cores(),
            first=_shipped(space), on_done=update,
        )  # fmt: skip
    make_folder(out)
    worths = exploration.worths()
    require_feasible(worths)
    front = pareto(worths, task.objectives)
    data, text = front_dict(task, worths, front), front_text(task, worths, front)
    for what in picks:
        path = out / f"{name or f'{space.name}-{what}'}.yaml"
        write_pick(path, task, pick(front, what), what, _command())
        data.setdefault("written", {})[what] = str(path)
        text += f"\n{what}: written to {path}"
    write_file(out / "front.json", json_text(data, indent=1) + "\n")
    draw_front(out / "front.png", task, worths, front)
    emit(as_json, data, f"{text}\nfront.json and front.png are in {out}")


def _space(
    name: str, changes: tuple[str, ...], clocks: tuple[float, ...], recipes: tuple[str, ...],
    preset: str | None, max_kl: float | None,
) -> Space:  # fmt: skip
    """The space with what the options change."""
    from lutvar.contract.quant_preset import load_quant
    from lutvar.sim.explore.space import load_space
    from lutvar.yaml_files import parse_yaml

    values: dict[str, list[Value]] = {}
    for change in changes:
        key, equals, text = change.partition("=")
        if not equals or not text:
            raise click.BadParameter(
                f"{change!r}; it must be KEY=VALUE, or several values with commas",
                param_hint="--set",
            )
        values |= parse_yaml(f"{key}: [{text}]", "--set")
    space = load_space(name).with_values(values)
    update: dict[str, object] = {}
    if clocks:
        update["clocks"] = [*dict.fromkeys(clocks)]
    if recipes:
        update["recipes"] = [*dict.fromkeys(recipes)]
    if preset is not None:
        if recipes:
            raise click.UsageError("--preset and --recipe exclude each other; give one")
        update |= {"preset": load_quant(preset).name, "recipes": []}
    if max_kl is not None:
        update["limits"] = space.limits.model_copy(update={"max_kl": max_kl})
    return space.model_copy(update=update)


def _quality(space: Space, results: Path) -> dict[str, Quality]:
    if not space.recipes:
        if space.limits.max_kl is not None:
            raise click.UsageError("--max-kl needs recipes: give --recipe, or a space with some")
        return {}
    from lutvar.sim.explore.quality import load_quality

    return load_quality(results, space.recipes)


def _points(path: Path) -> list[UnitPoint]:
    from lutvar.contract.unit_costs import load_points

    try:
        return load_points(path)
    except (ValueError, KeyError, TypeError, AttributeError):
        raise click.BadParameter(
            f"{path}: is no file of synthesised units; python -m lutvar.bench.measure writes one",
            param_hint="--costs",
        ) from None


def _shipped(space: Space) -> list[dict[str, Value]]:
    """The shipped accelerators that are candidates, with each clock and recipe: tried first."""
    from lutvar.contract.accelerator import load_accelerator
    from lutvar.yaml_files import shipped

    found: list[dict[str, Value]] = []
    configs = [load_accelerator(name) for name in shipped("accelerator")]
    for config in filter(space.contains, configs):
        own = {key: getattr(config, key) for key in space.fields}
        for clock in space.clocks:
            found += [
                {**own, "clock": clock, **({"recipe": recipe} if recipe else {})}
                for recipe in space.recipes or [""]
            ]
    return found


def _command() -> str:
    """The command line, as it can be given again."""
    return shlex.join(["lutvar", *sys.argv[1:]])
