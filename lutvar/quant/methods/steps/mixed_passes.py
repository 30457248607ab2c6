# SPDX-License-Identifier: Apache-2.0
"""Terms of each layer's operands under a budget of the array's cycles.

Source: project; the integer programme as in Hubara et al. (arXiv:2006.10518), section 3.4, with one
linear quantized at a time as in ZeroQ (arXiv:2001.00281). What is chosen are passes, not formats:
an operand in two terms stands for a value to about twice the bits, and the array takes a pass over
the weights for each pair of terms (docs/arithmetic.md, 4 and 6).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import replace

import torch
from pydantic import Field

from lutvar.contract.quant_preset import GROUP, SITE_NAMES
from lutvar.contract.terms import ONE_TERM, Terms
from lutvar.quant.methods.calibration.network import WholeModel
from lutvar.quant.methods.calibration.output_kl import OutputKl
from lutvar.quant.methods.layers.layer import Layer
from lutvar.quant.methods.layers.ranged import RangedLayer
from lutvar.quant.methods.quantizers.fake import FakeQuantizer
from lutvar.quant.var import Var
from lutvar.quant.var.sites import LinearSite

from .base import ModelStep, register_step

#: (site, its terms) -> KL.
Damage = dict[tuple[LinearSite, Terms], float]
#: Linears that the array computes.
_SITES = (*SITE_NAMES, "head")


@register_step("mixed-passes")
class MixedPasses(ModelStep):
    """Chooses the terms of weights and inputs of each linear.

    The damage of a choice is the KL of the model's output with this linear alone quantized so.
    Terms that the recipe gives a linear are the fewest that it gets. Steps that round weights come
    after this one, or before it.

    Attributes:
        budget: how many more cycles the array may take, in percent of those of one term
            everywhere.
        samples: calibration samples for KL.
    """

    budget: float = Field(ge=0, le=300)
    samples: int = Field(default=8, ge=1)

    @torch.no_grad()
    def apply_model(self, model: WholeModel) -> None:
        """Set the terms of all layers that the step works on.

        Raises:
            RecipeError: terms that the recipe gives take more than the budget.
        """
        assert isinstance(model.var, Var)
        layers = {site: layer for site, layer in model.layers.items() if self._covers(layer)}
        work = array_work(model.var, model.layers)
        output = OutputKl(model.var, model.calibration.first(self.samples))
        damage = term_damage(layers, output)
        what = f"step {self.step}: budget {self.budget:g} %"
        chosen = choose_terms(damage, work, self.budget, what)
        for site, terms in chosen.items():
            trial = with_terms(layers[site], terms, finish=False)
            layers[site].weight, layers[site].activation = trial.weight, trial.activation
            if terms != ONE_TERM:
                layers[site].notes.append(f"{self.step}: terms {terms.weights}, {terms.inputs}")
        note = f"{self.step}: {more_work(work, chosen):.2f} % more cycles of the array"
        next(iter(layers.values())).notes.append(note)

    def _covers(self, layer: Layer) -> bool:
        wanted = _SITES if self.sites is None else self.sites
        return (
            layer.site.name in wanted
            and layer.site.name in _SITES
            and not isinstance(layer, RangedLayer)
            and layer.weight is not None
        )


def term_damage(layers: Mapping[LinearSite, Layer], output: OutputKl) -> Damage:
    """KL of the model's output with one linear alone quantized, for all terms that it can have."""
    return {
        (site, terms): output({site: with_terms(layer, terms)}, "kl")
        for site, layer in layers.items()
        for terms in choices(layer)
    }


def choose_terms(
    damage: Damage, work: Mapping[LinearSite, float], budget: float, what: str
) -> dict[LinearSite, Terms]:
    """Terms of each linear in `damage` with the smallest sum of damage.

    Args:
        damage: (site, terms) -> KL.
        work: cycles of every linear of the array with one term (`array_work`).
        budget: percent more than all of that.
        what: begins the message of an error.

    Raises:
        RecipeError: even the fewest terms take more.
    """
    from lutvar.quant.methods.calibration.programme import solve  # SciPy's solver loads slowly

    cost = {(site, terms): work[site] * terms.products for site, terms in damage}
    total, covered = sum(work.values()), {site for site, _ in damage}
    rest = sum(cycles for site, cycles in work.items() if site not in covered)
    return solve(damage, cost, total * (1 + budget / 100) - rest, what)


def more_work(work: Mapping[LinearSite, float], chosen: Mapping[LinearSite, Terms]) -> float:
    """Percent of the array's cycles that terms take beyond those of one term everywhere."""
    more = sum(work[site] * (terms.products - 1) for site, terms in chosen.items())
    return 100 * more / sum(work.values())


def choices(layer: Layer) -> Iterator[Terms]:
    """Terms that a layer can have, none fewer than it has."""
    plain = type(layer.activation) is FakeQuantizer and not layer.activation.two_sided
    for weights, inputs in itertools.product((1, 2), (1, 2) if plain else (1,)):
        if weights >= layer.terms[0] and inputs >= layer.terms[1]:
            yield Terms(weights, inputs)


def with_terms(layer: Layer, terms: Terms, finish: bool = True) -> Layer:
    """A copy of a layer with other terms, rounded to nearest where no step has rounded it yet."""
    assert layer.weight is not None
    activation = layer.activation
    if isinstance(activation, FakeQuantizer) and activation.terms != terms.inputs:
        activation = FakeQuantizer(activation.spec, terms.inputs)
    weight = FakeQuantizer(layer.weight.spec, terms.weights)
    result = replace(layer, weight=weight, activation=activation, notes=list(layer.notes))
    if finish:
        result.finish()
    return result


def array_work(var: Var, layers: Mapping[LinearSite, Layer]) -> dict[LinearSite, float]:
    """Cycles of the array for a tile of rows, one term everywhere, of every linear that it runs.

    A weight vector for each output and group of inputs, twice for a dual format; all linears see
    the same rows. Linears that the recipe leaves float count once: the array computes them too.
    """
    head = LinearSite(var.config.depth, "head")
    sizes = {site: weight.shape for site, weight, _ in var.iter_sites()} | {
        head: var.head.weight.shape
    }
    work = {}
    for site, (outputs, inputs) in sizes.items():
        activation = layers[site].activation if site in layers else None
        dual = isinstance(activation, FakeQuantizer) and activation.format.dual
        padded = -(-outputs // GROUP) * GROUP
        work[site] = float(padded * (inputs // GROUP) * (2 if dual else 1))
    return work
