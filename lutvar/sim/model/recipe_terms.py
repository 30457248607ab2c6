# SPDX-License-Identifier: Apache-2.0
"""What the cycle model needs of a recipe: formats and terms of each layer."""

from __future__ import annotations

from pathlib import Path

from lutvar.contract.quant_preset import SITE_NAMES, QuantConfig, load_quant, preset_names
from lutvar.contract.terms import Terms
from lutvar.quant.methods.errors import RecipeError
from lutvar.quant.methods.layers.layer import Layer
from lutvar.quant.methods.recipes import files
from lutvar.quant.methods.recipes.recipe import Recipe, load_recipe
from lutvar.quant.var.sites import LinearSite


def recipe_terms(value: str, depth: int) -> tuple[QuantConfig, tuple[Terms, ...]]:
    """The preset whose formats a recipe has, and the terms of all layers of `depth` blocks.

    Args:
        value: a shipped recipe, a YAML file, or what `lutvar quantize` wrote for a model of that
            depth; recipes with the step `mixed-passes` choose terms on a model, so of these only
            what `lutvar quantize` wrote will do.
        depth: blocks.

    Raises:
        RecipeError: no such recipe, formats that no preset has, terms of blocks that are not there.
        QuantizedFileError: a damaged or foreign file.
    """
    sites = [LinearSite(i, name) for i in range(depth) for name in SITE_NAMES]
    sites.append(LinearSite(depth, "head"))
    if value.endswith(".safetensors"):
        content = files.read(Path(value))
        layers = content.unpacked(weights=False)
        if max(site.block for site in layers) > depth or any(s not in layers for s in sites[:-1]):
            raise RecipeError(f"{value}: made for a model of another depth than {depth} blocks")
        return _preset(content.recipe), tuple(_terms_of(layers.get(site)) for site in sites)
    recipe = load_recipe(value)
    if any(step["step"] == "mixed-passes" for step in recipe.steps):
        raise RecipeError(
            f"recipe {recipe.name}: mixed-passes chooses terms on a model; make a file with "
            "`lutvar quantize` and name that"
        )
    for key in recipe.terms:
        if "." in key and int(key.split(".")[1]) >= depth:
            raise RecipeError(f"terms.{key}: the model has blocks 0 to {depth - 1}")
    return _preset(recipe), tuple(Terms(*recipe.terms_of(site)) for site in sites)


def _terms_of(layer: Layer | None) -> Terms:
    return Terms() if layer is None else Terms(*layer.terms)


def _preset(recipe: Recipe) -> QuantConfig:
    """The shipped preset with a recipe's formats."""
    inputs = {name: recipe.layers[name].input for name in SITE_NAMES if name in recipe.layers}
    weights = {recipe.layers[name].weight for name in inputs}
    formats = {name: None if spec is None else spec.format for name, spec in inputs.items()}
    for name in preset_names("quant"):
        preset = load_quant(name)
        want = {site: config.activation for site, config in preset.sites.items()}
        if formats == want and {w and w.format for w in weights} == {preset.weight}:
            return preset
    raise RecipeError(
        f"recipe {recipe.name}: no preset has its formats ({formats}); the accelerator does not "
        "run it"
    )
