# SPDX-License-Identifier: Apache-2.0
"""Estimates of recipes with terms: formats, terms of each layer, what they cost the array."""

from __future__ import annotations

from pathlib import Path

import pytest

from lutvar.contract.accelerator import load_accelerator
from lutvar.contract.shape import TransformerShape
from lutvar.contract.terms import Terms
from lutvar.quant.methods import RecipeError, load_recipe, quantize_var
from lutvar.quant.methods.recipes.recipe import Recipe
from lutvar.quant.var import Var, VarConfig
from lutvar.sim.model.model import Estimator
from lutvar.sim.model.recipe_terms import recipe_terms

SMALL = VarConfig(
    depth=2, width=128, heads=2, patch_nums=(1, 2), num_classes=3, vocab=128, z_channels=8
)
TERMS = {"proj": [2, 1], "blocks.1.fc1": [2, 1], "head": [2, 1]}


def write(folder: Path, name: str = "mine", **changes: object) -> tuple[Recipe, str]:
    values = load_recipe("fpqvar-fp4-head2").model_dump(mode="json")
    values["steps"] = [{"step": "hadamard", "sites": ["qkv", "fc1", "head"]}]
    recipe = Recipe.model_validate(values | {"name": name, "terms": TERMS} | changes)
    path = folder / f"{name}.yaml"
    path.write_text(recipe.model_dump_json(), encoding="utf-8")  # JSON is YAML
    return recipe, str(path)


def test_shipped_recipes_have_terms_and_a_preset() -> None:
    quant, terms = recipe_terms("fpqvar-fp4-head2", 30)
    assert quant.name == "fp4" and terms == (Terms(),) * 120 + (Terms(2, 2),)
    quant, terms = recipe_terms("fpqvar-fp6-single", 2)
    assert quant.name == "fp6-single" and set(terms) == {Terms()}


def test_files_say_what_was_chosen(tmp_path: Path) -> None:
    recipe, path = write(tmp_path)
    var, file = Var(SMALL).eval(), tmp_path / "q.safetensors"
    quantize_var(var, recipe).save(file, var)
    assert recipe_terms(str(file), 2) == recipe_terms(path, 2)
    assert recipe_terms(path, 2)[1][4 + 2] == (2, 1) and recipe_terms(path, 2)[1][2] == (1, 1)
    for depth in (1, 3):
        with pytest.raises(RecipeError, match="made for a model of another depth"):
            recipe_terms(str(file), depth)


def test_refuses_what_has_no_estimate(tmp_path: Path) -> None:
    _, path = write(tmp_path)
    with pytest.raises(RecipeError, match=r"terms\.blocks\.1\.fc1: the model has blocks 0 to 0"):
        recipe_terms(path, 1)
    _, path = write(tmp_path, "chosen", terms={}, steps=[{"step": "mixed-passes", "budget": 5}])
    with pytest.raises(RecipeError, match="recipe chosen: mixed-passes chooses terms on a model"):
        recipe_terms(path, 1)
    with pytest.raises(RecipeError, match="recipe int4-rtn: no preset has its formats"):
        recipe_terms("int4-rtn", 2)


def test_the_second_set_costs_the_array_as_much_as_the_first() -> None:
    config, shape = load_accelerator("small-fp4"), TransformerShape(128, 2, 2, 512, 96, (1, 2))
    one = Estimator(config, shape, "m").estimate("single")
    terms = [Terms()] * 9
    terms[1] = terms[5] = Terms(2, 1)
    two = Estimator(config, shape, "m", terms=terms).estimate("single")
    # proj: one group of 128 outputs, in each of two blocks.
    for a, b in zip(one.passes, two.passes, strict=True):
        assert b.issue - a.issue == 2 * 128 * a.tiles
        assert b.traffic["weights"] > a.traffic["weights"] and b.cycles >= a.cycles


def test_blocks_that_differ_are_all_compiled() -> None:
    config, shape = load_accelerator("small-fp4"), TransformerShape(128, 14, 2, 512, 96, (1, 2))
    alike = [Terms()] * 57
    assert not Estimator(config, shape, "m", terms=alike).full
    other = alike.copy()
    other[40] = Terms(2, 1)
    assert Estimator(config, shape, "m", terms=other).full
