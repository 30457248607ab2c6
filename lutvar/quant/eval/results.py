# SPDX-License-Identifier: Apache-2.0
"""The comparison of all recipes on one model: quantize each once, evaluate it, resumable."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor
from typing_extensions import Self

from lutvar.files import make_folder
from lutvar.quant.methods import QuantizedFileError, Recipe, RecipeError, load_recipe
from lutvar.quant.methods.hardware.report import HardwareReport, hardware
from lutvar.quant.methods.recipes import files as recipe_files
from lutvar.quant.methods.recipes.quantized_var import QuantizedVar
from lutvar.quant.methods.resumable import quantize_to_file
from lutvar.quant.models import LoadedModel, load_model
from lutvar.quant.var import generate
from lutvar.yaml_files import YamlError, read_model

from .evaluate import Bars, Plan, Run, evaluate
from .settings import SampleSettings, image_seed
from .subject import FLOAT, SubjectName, load_subject
from .threads import single_thread


class Group(BaseModel):
    """Recipes of one table."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    title: str
    recipes: tuple[str, ...]


class Focus(BaseModel):
    """More samples and seeds for a few recipes, so that small differences show.

    Attributes:
        recipes: of the plan's; "float" may be named and takes part in any case.
        samples, seeds: as for the plan. What the plan samples with the same seeds is not made
            again.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    recipes: tuple[str, ...] = Field(min_length=1)
    samples: int = Field(ge=1)
    seeds: tuple[int, ...] = Field(min_length=3)

    def methods(self) -> list[str]:
        """The recipes without the float model."""
        return [name for name in self.recipes if name != FLOAT]


class ResultsPlan(BaseModel):
    """What is compared; see lutvar/configs/results.yaml.

    Attributes:
        model: name or folder.
        samples, seeds, teacher: as for `lutvar eval`.
        groups: tables.
        plain, best: two recipes that are compared seed by seed, in `focus` if both are there.
        worst, six: recipes of the statements on the paper's order.
        sheet: rows of the picture.
        focus: some of the recipes with more samples, or None.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    model: str
    samples: int = Field(ge=1)
    seeds: tuple[int, ...] = Field(min_length=3)
    teacher: int = Field(ge=1)
    plain: str
    best: str
    worst: str
    six: str
    sheet: tuple[str, ...]
    groups: tuple[Group, ...]
    focus: Focus | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        names = self.recipes()
        if len(set(names)) != len(names):
            raise ValueError("a recipe is named in two groups; name it once")
        if len({Path(name).stem for name in names}) != len(names):
            raise ValueError("two recipes have the same name; rename one, and its file")
        methods = {FLOAT, *names}
        focused = () if self.focus is None else self.focus.recipes
        if len(set(focused)) != len(focused):
            raise ValueError("focus.recipes: a recipe is named twice; name it once")
        for name in (self.plain, self.best, self.worst, self.six, *self.sheet, *focused):
            if name not in methods:
                raise ValueError(f"{name!r} is in no group; add it to one")
        return self

    def recipes(self) -> list[str]:
        """All recipes, in order."""
        return [name for group in self.groups for name in group.recipes]


def load_plan(path: Path | None = None) -> ResultsPlan:
    """Read a plan; the shipped one by default. Raises RecipeError."""
    source = resources.files("lutvar") / "configs" / "results.yaml" if path is None else path
    where = "the shipped plan" if path is None else f"plan {path}"
    try:
        return read_model(ResultsPlan, source, where)
    except YamlError as error:
        raise RecipeError(str(error)) from error


@dataclass(frozen=True)
class Entry:
    """One recipe of the comparison and what it asks of hardware."""

    recipe: Recipe
    hardware: HardwareReport


@dataclass(frozen=True)
class Results:
    """Everything that the document is made of.

    Attributes:
        plan: what was compared.
        evaluation: settings of the sampling.
        entries: recipe -> itself and what it asks of hardware.
        runs: one for each recipe and seed.
        focus_runs: the same for the plan's `focus`; empty without.
    """

    plan: ResultsPlan
    evaluation: Plan
    entries: dict[str, Entry]
    runs: list[Run]
    focus_runs: list[Run] = field(default_factory=list)

    def of(self, method: str) -> list[Run]:
        """Runs of a recipe, one for each seed."""
        return [run for run in self.runs if run.method == method]

    def focused(self, method: str) -> list[Run]:
        """Runs of a recipe in the plan's `focus`, one for each seed."""
        return [run for run in self.focus_runs if run.method == method]

    def pair(self) -> tuple[list[Run], list[Run]]:
        """Runs of the best recipe and of the plain one: of `focus` if it has both."""
        best, plain = self.plan.best, self.plan.plain
        if self.focused(best) and self.focused(plain):
            return self.focused(best), self.focused(plain)
        return self.of(best), self.of(plain)


def compare(
    plan: ResultsPlan,
    folder: Path,
    bars: Bars,
    say: Callable[[str], None],
    jobs: int | None = None,
) -> Results:
    """Quantize and evaluate every recipe of a plan.

    Quantized models and samples stay in the folder; what is there is not made again.

    Args:
        plan: what.
        folder: working folder.
        bars: opens a progress bar.
        say: called with a line about the progress.
        jobs: sampling processes.

    Raises:
        RecipeError: a recipe that does not exist or does not fit the model.
        StoreError: the folder holds results of another model or recipe.
    """
    model = load_model(plan.model)
    recipes = {name: load_recipe(name) for name in plan.recipes()}
    entries: dict[str, Entry] = {}
    files: dict[str, str] = {}
    # Recipes that differ in the cache alone share their layers.
    files_by_layers: dict[str, Path] = {}
    for number, (name, recipe) in enumerate(recipes.items(), 1):
        say(f"recipe {number} of {len(recipes)}: {name}")
        path = _file(folder, name)
        make_folder(path.parent)
        layers = recipe.model_dump_json(exclude={"name", "title", "source", "cache"})
        with bars(f"{name}: quantize") as update:
            report = _quantized(model, recipe, path, files_by_layers.get(layers), update)
        entries[name] = Entry(recipe, report)
        files_by_layers.setdefault(layers, path)
        files[str(path)] = name
    evaluation = Plan(
        model=plan.model,
        methods=tuple(files),
        settings=SampleSettings.of(model.info),
        samples=plan.samples,
        seeds=plan.seeds,
        teacher=plan.teacher,
        folder=folder / "samples",
        jobs=jobs,
    )
    runs = _named(evaluate(evaluation, bars), files)
    more: list[Run] = []
    if plan.focus is not None:
        say(f"more samples for {', '.join(plan.focus.methods())}")
        methods = set(plan.focus.methods())
        # The same folder: samples of the same seeds are there already, and are the first ones.
        larger = replace(
            evaluation,
            methods=tuple(path for path, name in files.items() if name in methods),
            samples=plan.focus.samples,
            seeds=plan.focus.seeds,
        )
        more = _named(evaluate(larger, bars), files)
    return Results(plan, evaluation, entries, runs, more)


def _file(folder: Path, name: str) -> Path:
    """Where a recipe's quantized model is kept; a recipe given by its path has its stem's name."""
    return folder / "quantized" / f"{Path(name).stem}.safetensors"


def _named(runs: list[Run] | None, files: dict[str, str]) -> list[Run]:
    """Runs under the names of their recipes instead of files."""
    assert runs is not None
    return [replace(run, method=files.get(run.method, run.method)) for run in runs]


def _quantized(
    model: LoadedModel,
    recipe: Recipe,
    path: Path,
    same: Path | None,
    update: Callable[[int, int], None],
) -> HardwareReport:
    """Write the file of a recipe unless there is one of the same recipe and model.

    `same` is the file of a recipe with the same layers and attention.
    """
    model_hash = recipe_files.fingerprint(model.var)
    if path.exists():
        try:
            content = recipe_files.read(path, model_hash)
        except QuantizedFileError:
            content = None
        if content is not None and content.recipe == recipe:
            quantized = QuantizedVar.load(path, model.var)
            return hardware(quantized, model.var, content.on_grid())
    if same is not None:
        replace(QuantizedVar.load(same, model.var), recipe=recipe).save(path, model.var)
        content = recipe_files.read(path, model_hash)
        return hardware(QuantizedVar.load(path, model.var), model.var, content.on_grid())
    info = model.info
    return quantize_to_file(
        model.var,
        model.vqvae,
        recipe,
        path,
        sampling=(info.cfg, info.top_k, info.top_p),
        progress=update,
    )


def sheet_rows(
    plan: ResultsPlan, folder: Path, model: LoadedModel, count: int
) -> list[tuple[str, Tensor]]:
    """Images [count, C, H, W] of each row of the sheet, equal classes and seeds in all rows."""
    labels = torch.arange(count) % model.info.var.num_classes
    seeds = [image_seed(plan.seeds[0], i) for i in range(count)]
    rows: list[tuple[str, Tensor]] = []
    info = model.info
    for name in plan.sheet:
        method = name if name == FLOAT else str(_file(folder, name))
        subject = load_subject(SubjectName(plan.model, method), model=model)
        with single_thread(), subject.installed() as var:
            result = generate(var, model.vqvae, labels, seeds, info.cfg, info.top_k, info.top_p)
        rows.append((name, result.images_BCHW))
    return rows


def difference(
    runs: Sequence[Run], base: Sequence[Run], value: Callable[[Run], float]
) -> list[float]:
    """Difference of a figure, seed by seed, in the order of seeds."""
    of_seed = {run.seed: value(run) for run in base}
    return [value(run) - of_seed[run.seed] for run in sorted(runs, key=lambda r: r.seed)]
