# SPDX-License-Identifier: Apache-2.0
"""What `lutvar results` compares: recipes in groups, samples and seeds, the larger runs of a few.

The shipped plan is lutvar/configs/results.yaml.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, Field, model_validator
from typing_extensions import Self

from lutvar.quant.methods import Recipe, RecipeError, load_recipe
from lutvar.yaml_files import YamlError, read_model

from .methods import FLOAT
from .settings import GENERATE
from .tasks import TASKS, TaskName


class Part(NamedTuple):
    """Rows that are measured alike.

    Attributes:
        task: what is drawn, "generate" or one of `tasks.TASKS`.
        recipes: without the unquantized model, which takes part in any case.
        samples, seeds: images for each seed.
    """

    task: str
    recipes: tuple[str, ...]
    samples: int
    seeds: tuple[int, ...]


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


class Tasks(BaseModel):
    """Editing tasks for a few recipes.

    Attributes:
        names: of the tasks, each with a table.
        recipes: of the plan's.
        samples, seeds: as for the plan.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    names: tuple[TaskName, ...] = TASKS
    recipes: tuple[str, ...] = Field(min_length=1)
    samples: int = Field(ge=1)
    seeds: tuple[int, ...] = Field(min_length=3)


class Passes(BaseModel):
    """A recipe with several budgets of the array's cycles, measured on the golden model.

    Attributes:
        recipe: with a step `mixed-passes`, whose budget is replaced; of the plan's.
        budgets: percent more cycles than with one term everywhere.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    recipe: str
    budgets: tuple[float, ...] = Field(min_length=2)

    def names(self) -> list[str]:
        """What the recipe is called with each of the budgets: "fp4-passes-25"."""
        stem = Path(self.recipe).stem
        return [f"{stem}-{budget:g}".replace(".", "_") for budget in self.budgets]

    def recipes(self) -> dict[str, Recipe]:
        """The recipe with each of the budgets, by name. Raises RecipeError."""
        recipe = load_recipe(self.recipe)
        if not any(step["step"] == "mixed-passes" for step in recipe.steps):
            raise RecipeError(
                f"recipe {recipe.name}: has no step mixed-passes, whose budget passes.budgets sets"
            )
        found = {}
        for name, budget in zip(self.names(), self.budgets, strict=True):
            steps = tuple(
                {**step, "budget": budget} if step["step"] == "mixed-passes" else step
                for step in recipe.steps
            )
            found[name] = recipe.model_copy(update={"name": name, "steps": steps})
        return found


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
        tasks: editing with some of the recipes, or None.
        passes: a recipe over the array's cycles, or None.
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
    tasks: Tasks | None = None
    passes: Passes | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        names = self.recipes()
        if len(set(names)) != len(names):
            raise ValueError("a recipe is named in two groups; name it once")
        stems = [
            *(Path(name).stem for name in names),
            *(self.passes.names() if self.passes else ()),
        ]
        if len(set(stems)) != len(stems):
            raise ValueError("two recipes have the same name; rename one, and its file")
        methods = {FLOAT, *names}
        some: list[str] = []
        for part in ("focus", "tasks"):
            value = getattr(self, part)
            named = () if value is None else value.recipes
            if len(set(named)) != len(named):
                raise ValueError(f"{part}.recipes: a recipe is named twice; name it once")
            some += named
        if self.passes is not None:
            some.append(self.passes.recipe)
        for name in (self.plain, self.best, self.worst, self.six, *self.sheet, *some):
            if name not in methods:
                raise ValueError(f"{name!r} is in no group; add it to one")
        return self

    def recipes(self) -> list[str]:
        """All recipes of the groups, in order."""
        return [name for group in self.groups for name in group.recipes]

    def all_recipes(self) -> list[str]:
        """All recipes, in order."""
        return [*self.recipes(), *(self.passes.names() if self.passes else ())]

    @property
    def main(self) -> Part:
        """The rows of the groups, then those of `passes`."""
        return Part(GENERATE, tuple(self.all_recipes()), self.samples, self.seeds)

    @property
    def larger(self) -> Part | None:
        """The rows of `focus`."""
        if self.focus is None:
            return None
        focus = self.focus
        return Part(GENERATE, tuple(focus.methods()), focus.samples, focus.seeds)

    @property
    def edits(self) -> list[Part]:
        """The rows of `tasks`, task by task."""
        tasks = self.tasks
        if tasks is None:
            return []
        return [Part(name, tasks.recipes, tasks.samples, tasks.seeds) for name in tasks.names]

    def parts(self) -> list[Part]:
        """Everything to measure, in order: the larger samples come last."""
        return [self.main, *self.edits, *([self.larger] if self.larger else [])]


def load_plan(path: Path | None = None) -> ResultsPlan:
    """Read a plan; the shipped one by default. Raises RecipeError."""
    source = resources.files("lutvar") / "configs" / "results.yaml" if path is None else path
    where = "the shipped plan" if path is None else f"plan {path}"
    try:
        return read_model(ResultsPlan, source, where)
    except YamlError as error:
        raise RecipeError(str(error)) from error
