# SPDX-License-Identifier: Apache-2.0
"""KL of the golden model over the cycles that operands in two terms take.

A recipe is carried out once; `mixed-passes` then chooses terms for each budget from one measurement
of every linear, and besides the head gets all pairs of terms. What is compared are the codes that
the accelerator runs, on tokens that the float model drew.

    python -m lutvar.quant.eval.passes_curve --model cifar10 --recipe fpqvar-fp4-head2 --out FOLDER
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from lutvar.contract.terms import ONE_TERM, Terms
from lutvar.files import json_text, rendered, write_file
from lutvar.quant.golden.distance import kl_divergence
from lutvar.quant.golden.transformer import GoldenTransformer
from lutvar.quant.methods.calibration.output_kl import OutputKl
from lutvar.quant.methods.calibration.prepare import prepare_calibration
from lutvar.quant.methods.calibration.samples import calibration_set
from lutvar.quant.methods.hardware.export import export
from lutvar.quant.methods.recipes.build import quantize_var
from lutvar.quant.methods.recipes.recipe import Recipe, load_recipe
from lutvar.quant.methods.steps.mixed_passes import (
    array_work,
    choose_terms,
    more_work,
    term_damage,
    with_terms,
)
from lutvar.quant.models import LoadedModel, load_model
from lutvar.quant.var.passes import FloatTransformer, generate_passes, teacher_forced
from lutvar.quant.var.sites import LinearSite

BUDGETS = (0.0, 5.0, 10.0, 25.0, 50.0, 100.0)
HEAD = ((1, 1), (2, 1), (1, 2), (2, 2))


@dataclass(frozen=True)
class Point:
    """One choice of terms.

    Attributes:
        name: what was asked for.
        cycles: percent more cycles of the array than with one term everywhere.
        kl: of the golden model's conditional logits from the float model's, nat.
        terms: linear -> terms, where they are not one each.
    """

    name: str
    cycles: float
    kl: float
    terms: dict[str, tuple[int, int]]


class Curve:
    """A model, its tokens, and a recipe's layers with one term each.

    Args:
        model: the float model.
        recipe: a recipe whose layers the accelerator runs; its own terms are left out.
        images: whose tokens are given.
        seed: of the first one.
        samples: calibration samples for the measurement of each linear.
    """

    def __init__(
        self, model: LoadedModel, recipe: Recipe, images: int, seed: int = 0, samples: int = 8
    ) -> None:
        self.model, info, var = model, model.info, model.var
        steps = tuple(s for s in recipe.steps if s["step"] != "mixed-passes")
        recipe = recipe.model_copy(update={"terms": {}, "steps": steps})
        calibration = None
        if recipe.needs_data:
            calibration = prepare_calibration(
                var, model.vqvae, recipe.calibration, info.cfg, info.top_k, info.top_p,
                model.classifier,
            )  # fmt: skip
        self.quantized = quantize_var(var, recipe, calibration)
        self.work = array_work(var, self.quantized.layers)
        self.labels = [i % var.config.num_classes for i in range(images)]
        drawn = generate_passes(
            var, model.vqvae, FloatTransformer(var), self.labels, range(seed, seed + images),
            info.cfg, info.top_k, info.top_p, slots=images,
        )  # fmt: skip
        self.tokens = [part.clone() for part in drawn.tokens]
        self.exact = self._logits(FloatTransformer(var))
        self._samples = calibration_set(var, model.vqvae, samples, seed=seed + images)

    def _logits(self, transformer: GoldenTransformer | FloatTransformer) -> Tensor:
        return teacher_forced(
            self.model.var, self.model.vqvae, transformer, self.labels, self.tokens
        )

    def point(self, name: str, terms: Mapping[LinearSite, Terms]) -> Point:
        """The golden model with these terms."""
        layers = {
            site: with_terms(layer, terms.get(site, ONE_TERM))
            for site, layer in self.quantized.layers.items()
        }
        coded = export(replace(self.quantized, layers=layers), self.model.var)
        kl = kl_divergence(self.exact, self._logits(GoldenTransformer(coded)))
        shown = {str(s): (t.weights, t.inputs) for s, t in terms.items() if t != ONE_TERM}
        return Point(name, more_work(self.work, terms), kl, shown)

    def points(
        self, budgets: Sequence[float] = BUDGETS, say: Callable[[str], None] = print
    ) -> list[Point]:
        """The head in all pairs of terms, then every budget."""
        head = LinearSite(self.model.var.config.depth, "head")
        found = []
        plans = [(f"head {w}, {i}", {head: Terms(w, i)}) for w, i in HEAD]
        damage = term_damage(self.quantized.layers, OutputKl(self.model.var, self._samples))
        for budget in budgets:
            name = f"{budget:g} %"
            plans.append((name, choose_terms(damage, self.work, budget, f"budget {name}")))
        for name, terms in plans:
            found.append(self.point(name, terms))
            say(f"{name}: {found[-1].cycles:.2f} % more cycles, KL {found[-1].kl:.4f}")
        return found


def draw(path: Path, points: Sequence[Point], title: str) -> None:
    """A PNG: KL over cycles."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    head = [p for p in points if p.name.startswith("head")]
    budgets = [p for p in points if p not in head]
    axis.plot(
        [p.cycles for p in budgets], [p.kl for p in budgets], "o-", color="#1f6f8b",
        label="mixed-passes, budgets " + ", ".join(p.name for p in budgets),
    )  # fmt: skip
    axis.scatter(
        [p.cycles for p in head], [p.kl for p in head], color="#c8553d", zorder=3,
        label="the head alone in 1 or 2 terms",
    )  # fmt: skip
    axis.set_xlabel("more cycles of the array, %")
    axis.set_ylabel("KL of the golden model, nat")
    axis.set_ylim(bottom=0)
    axis.set_title(title, fontsize=11)
    axis.grid(True, color="#eeeeee")
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(fontsize=8, frameon=False)
    write_file(path, rendered(lambda file: figure.savefig(file, dpi=130, format="png")))


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and write passes-MODEL.json and passes-MODEL.png."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", default="cifar10")
    parser.add_argument("--recipe", default="fpqvar-fp4-head2")
    parser.add_argument("--images", type=int, default=24)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("build"))
    given = parser.parse_args(arguments)
    model, recipe = load_model(given.model), load_recipe(given.recipe)
    with torch.no_grad():
        points = Curve(model, recipe, given.images, given.seed).points()
    data = {
        "model": model.info.name, "recipe": recipe.name, "images": given.images,
        "seed": given.seed, "points": [asdict(point) for point in points],
    }  # fmt: skip
    base = given.out / f"passes-{model.info.name}"
    write_file(base.with_suffix(".json"), json_text(data, indent=1) + "\n")
    draw(base.with_suffix(".png"), points, f"{model.info.name}, {recipe.name}")


if __name__ == "__main__":
    main()
