# SPDX-License-Identifier: Apache-2.0
"""The comparison of all recipes on one model: measures what the record lacks, row by row.

Recipes that the accelerator runs have two rows: the golden model, which computes what the device
does, and fake quantization. A finished row goes into the record at once, and quantized models and
samples stay in the working folder, so that an interrupted comparison goes on where it stopped. A
record without its folder is enough to write the page.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import lutvar
from lutvar.contract.terms import Terms
from lutvar.files import finite, json_text, make_folder
from lutvar.quant.methods import QuantizedFileError, Recipe, load_recipe
from lutvar.quant.methods.hardware.report import HardwareReport, hardware
from lutvar.quant.methods.recipes import files as recipe_files
from lutvar.quant.methods.recipes.quantized_var import QuantizedVar
from lutvar.quant.methods.resumable import quantize_to_file
from lutvar.quant.methods.steps.mixed_passes import array_work, more_work
from lutvar.quant.models import LoadedModel, load_model

from .evaluate import Bars, Plan, Run, Samples, evaluate
from .methods import FLOAT
from .record import Hardware, Key, Record, Row, State, arithmetic_hash
from .results_plan import Part, ResultsPlan
from .settings import GENERATE, SampleSettings
from .subject import On, model_fingerprint
from .tasks import BOX

#: Figures of single linears stay in the working folder's JSON; a record would be mostly they.
_LEFT_OUT = ("through_snr_db", "own_snr_db")


@dataclass
class Comparison:
    """A plan, the record, and the working folder.

    Attributes:
        plan: what is compared.
        record: rows so far.
        folder: quantized models and samples.
        model: the plan's.
        recipes: of the plan, by name.
        runs: those measured by this object, with all their figures.
    """

    plan: ResultsPlan
    record: Record
    folder: Path
    model: LoadedModel = field(init=False)
    recipes: dict[str, Recipe] = field(init=False)
    runs: list[tuple[str, Run]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.model = load_model(self.plan.model)
        self.recipes = {name: load_recipe(name) for name in self.plan.recipes()}
        if self.plan.passes is not None:
            self.recipes |= self.plan.passes.recipes()
        self._fingerprint = model_fingerprint(self.model)

    def hardware(self, name: str) -> Hardware | None:
        """What a recipe asks of hardware, if a row of it as it is now says so."""
        if name == FLOAT:
            return None
        recipe = self.recipes[name]
        return self.record.hardware(recipe.name, recipe_hash(recipe), self._fingerprint)

    def key(self, part: Part, name: str, on: str, known: Hardware | None = None) -> Key:
        """The key that a row has today; `known` where it is a golden one."""
        arithmetic = ""
        if on == "golden":
            assert known is not None and known.preset is not None
            arithmetic = arithmetic_hash(known.preset, known.kv_format)
        return Key(
            model=self.model.info.name,
            fingerprint=self._fingerprint,
            recipe=name if name == FLOAT else self.recipes[name].name,
            recipe_sha256="" if name == FLOAT else recipe_hash(self.recipes[name]),
            on=on,
            arithmetic=arithmetic,
            task=part.task,
            samples=part.samples,
            seeds=part.seeds,
            teacher=self.plan.teacher,
            settings=self._key_settings(part),
        )

    def states(self, part: Part, name: str) -> list[State]:
        """Where the rows of a recipe stand: the golden one first, if the accelerator runs it."""
        if name == FLOAT:
            return [self.record.state(self.key(part, name, FLOAT))]
        known = self.hardware(name)
        ways = self._ways(name, known is not None and known.runs)
        return [self.record.state(self.key(part, name, on, known)) for on in ways]

    def all_states(self) -> Iterator[tuple[Part, State]]:
        """All rows that are known of, in the order of the plan."""
        for part in self.plan.parts():
            for name in (FLOAT, *part.recipes):
                for state in self.states(part, name):
                    yield part, state

    def measure(
        self,
        bars: Bars,
        say: Callable[[str], None],
        jobs: int | None = None,
        only: Collection[str] = (),
        again: bool = False,
    ) -> None:
        """Measure what is missing or stale; printed rows stay.

        Args:
            bars: opens a progress bar.
            say: called with a line about the progress.
            jobs: sampling processes.
            only: names of recipes to measure; none: all.
            again: measure what is done or printed, too.

        Raises:
            RecipeError: a recipe that does not exist or does not fit the model.
            StoreError: the folder holds results of another model or recipe.
        """
        for part in self.plan.parts():
            for name in (FLOAT, *part.recipes):
                if only and name not in only:
                    continue
                wanted = self._wanted(part, name, again, bars, say)
                if wanted:
                    say(f"{part.task}, {part.samples} x {len(part.seeds)}: {name}")
                    self.record.put(self._rows(part, name, wanted, bars, jobs))

    def _wanted(
        self, part: Part, name: str, again: bool, bars: Bars, say: Callable[[str], None]
    ) -> list[On]:
        """How a recipe is to be measured; [] for nothing to do."""
        if name != FLOAT and self.hardware(name) is None:
            say(f"quantize {name}")
            report = self._quantized(name, bars)
            return self._ways(name, report.runs)
        missing = [s for s in self.states(part, name) if again or s.state in ("to do", "stale")]
        return ["golden" if s.key.on == "golden" else "fake" for s in missing]

    def _rows(
        self, part: Part, name: str, ways: Sequence[On], bars: Bars, jobs: int | None
    ) -> list[Row]:
        """Measure a recipe in some ways."""
        known: Hardware | None = None
        methods: tuple[str, ...] = ()
        if name != FLOAT:
            known = hardware_row(self._quantized(name, bars), self._more_cycles(name))
            methods = (str(self.file(name)),)
        plan = Plan(
            model=self.plan.model,
            methods=methods,
            settings=self._settings(part),
            samples=part.samples,
            seeds=part.seeds,
            teacher=self.plan.teacher,
            folder=self.folder / "samples" / part.task,
            jobs=jobs,
            on=ways[0] if len(ways) == 1 else None,
        )
        tokens: dict[str, tuple[tuple[int, ...], ...]] = {}

        def keep(run: Run, samples: Samples) -> None:
            if run.seed == part.seeds[0] and part == self.plan.main and name in self.plan.sheet:
                first = samples.tokens_NL[: len(self.model.info.classes)]
                tokens[run.on] = tuple(tuple(row) for row in first.tolist())

        runs = evaluate(plan, bars, keep)
        assert runs is not None
        rows = []
        for on in [FLOAT] if name == FLOAT else ways:
            of_row = [run for run in runs if run.on == on]
            self.runs += [(part.task, replace(run, method=name)) for run in of_row]
            rows.append(
                Row(
                    key=self.key(part, name, on, known),
                    lutvar=lutvar.__version__,
                    date=date.today().isoformat(),
                    hardware=known,
                    runs=tuple(_run_values(run) for run in of_row),
                    tokens=tokens.get(on),
                )
            )
        return rows

    def _ways(self, name: str, runs: bool) -> list[On]:
        """How a recipe is measured; with a budget of the accelerator's cycles as golden model."""
        if not runs:
            return ["fake"]
        passes = self.plan.passes
        return ["golden"] if passes and name in passes.names() else ["golden", "fake"]

    def _more_cycles(self, name: str) -> float:
        """Percent more cycles of the array than with one term everywhere."""
        layers = QuantizedVar.load(self.file(name), self.model.var).layers
        terms = {site: Terms(*layer.terms) for site, layer in layers.items()}
        return more_work(array_work(self.model.var, layers), terms)

    def file(self, name: str) -> Path:
        """Where a recipe's quantized model is kept; a recipe given by path has its stem's name."""
        return self.folder / "quantized" / f"{Path(name).stem}.safetensors"

    def _settings(self, part: Part) -> SampleSettings:
        return SampleSettings.of(self.model.info, task=part.task)

    def _key_settings(self, part: Part) -> dict[str, Any]:
        settings = self._settings(part)
        values = {name: getattr(settings, name) for name in ("cfg", "top_k", "top_p", "chunk")}
        return values if part.task == GENERATE else {**values, "box": list(BOX)}

    def _quantized(self, name: str, bars: Bars) -> HardwareReport:
        """Write the file of a recipe unless there is one of the same recipe and model.

        Recipes that differ in the cache alone share their layers.
        """
        recipe, path = self.recipes[name], self.file(name)
        model_hash = recipe_files.fingerprint(self.model.var)
        make_folder(path.parent)
        if path.exists():
            try:
                content = recipe_files.read(path, model_hash)
            except QuantizedFileError:
                content = None
            if content is not None and content.recipe == recipe:
                quantized = QuantizedVar.load(path, self.model.var)
                return hardware(quantized, self.model.var, content.on_grid())
        for other, its_recipe in self.recipes.items():
            if _layers(its_recipe) == _layers(recipe) and self._is_of(self.file(other), its_recipe):
                same = QuantizedVar.load(self.file(other), self.model.var)
                replace(same, recipe=recipe).save(path, self.model.var)
                return self._quantized(name, bars)
        info = self.model.info
        with bars(f"{name}: quantize") as update:
            return quantize_to_file(
                self.model.var,
                self.model.vqvae,
                recipe,
                path,
                sampling=(info.cfg, info.top_k, info.top_p),
                progress=update,
                classifier=self.model.classifier,
            )

    def _is_of(self, path: Path, recipe: Recipe) -> bool:
        """Whether a file holds the layers that a recipe makes of this model."""
        try:
            return (
                recipe_files.read(path, recipe_files.fingerprint(self.model.var)).recipe == recipe
            )
        except QuantizedFileError:
            return False


def recipe_hash(recipe: Recipe) -> str:
    """SHA-256 of what a recipe says; its title and source may change.

    Settings that a later version adds do not count while they are left at their default.
    """
    settings = recipe.model_dump(mode="json", exclude={"title", "source"}, exclude_defaults=True)
    return hashlib.sha256(json_text(settings, sort_keys=True).encode()).hexdigest()


def hardware_row(report: HardwareReport, more_cycles: float) -> Hardware:
    """A report as it goes into a row."""
    missing = [*report.missing]
    if report.unshipped is not None:
        missing.append(f"no shipped configuration: {report.unshipped}")
    return Hardware(
        bits_per_weight=round(report.bits_per_weight, 4),
        runs=report.runs,
        preset=report.preset,
        kv_format=report.kv_format,
        missing=tuple(missing),
        more_cycles=round(more_cycles, 2),
    )


def sheet_rows(comparison: Comparison) -> list[tuple[str, str, Tensor]]:
    """Recipe, how it was computed, and images [count, C, H, W] of each row of the sheet.

    The images are those that were measured: the first of each class, at the first seed. Rows
    without tokens are left out.
    """
    rows: list[tuple[str, str, Tensor]] = []
    vqvae = comparison.model.vqvae
    counts = [p * p for p in vqvae.config.patch_nums]
    for name in comparison.plan.sheet:
        state = comparison.states(comparison.plan.main, name)[0]
        if state.row is not None and state.row.tokens is not None:
            tokens = torch.tensor(state.row.tokens).split(counts, 1)
            with torch.no_grad():
                rows.append((name, state.key.on, vqvae.decode(list(tokens))))
    return rows


def _layers(recipe: Recipe) -> str:
    """What a recipe's layers and attention come from."""
    return recipe.model_dump_json(exclude={"name", "title", "source", "cache"})


def _run_values(run: Run) -> dict[str, Any]:
    """A run as JSON values, without the figures of single linears."""
    values: dict[str, Any] = finite(run.as_dict())
    for name in ("method", "on"):
        del values[name]
    if values["forced"] is not None:
        values["forced"] = {k: v for k, v in values["forced"].items() if k not in _LEFT_OUT}
    return values
