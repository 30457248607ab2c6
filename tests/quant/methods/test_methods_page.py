# SPDX-License-Identifier: Apache-2.0
"""docs/methods.md is complete and true: every paper, every recipe, nothing that does not exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lutvar.quant.methods import load_recipe, recipe_names
from lutvar.quant.methods.attention.registry import KINDS
from lutvar.quant.methods.steps import STEPS

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in PAGE.splitlines()
    if line.startswith("|") and not line.startswith(("| list", "|---"))
]
#: Names in backticks of the fourth column, with the word before them.
NAMES = re.findall(r"(step |kind )?`([\w./-]+)`", " ".join(row[3] for row in ROWS))
RECIPES = sorted({name for word, name in NAMES if not word and "/" not in name})


def test_every_paper_of_the_list_once() -> None:
    assert all(len(row) == 5 for row in ROWS)
    numbers = [int(row[0]) for row in ROWS if row[0]]
    assert sorted(numbers) == list(range(1, 53))
    for _, paper, status, where, why in ROWS:
        assert status in ("implemented", "partly", "reference", "out of scope"), paper
        assert bool(where) == (status in ("implemented", "partly")) or status == "reference", paper
        assert why, f"{paper}: say what differs, or why not"


@pytest.mark.parametrize("name", RECIPES)
def test_named_recipe_exists(name: str) -> None:
    assert load_recipe(name).name == name


@pytest.mark.parametrize("name", recipe_names())
def test_shipped_recipe_is_on_the_page(name: str) -> None:
    assert name in RECIPES
    recipe = load_recipe(name)
    assert recipe.title and recipe.source
    assert {v for k, v in recipe.coverage().items() if v != "float"}, "nothing is quantized"


@pytest.mark.parametrize("name", sorted({name for word, name in NAMES if word == "step "}))
def test_named_step_exists(name: str) -> None:
    assert name in STEPS.names()


@pytest.mark.parametrize("name", sorted({name for word, name in NAMES if word == "kind "}))
def test_named_attention_exists(name: str) -> None:
    assert name in KINDS.names()


def test_every_step_and_kind_is_on_the_page() -> None:
    steps = {name for word, name in NAMES if word == "step "}
    kinds = {name for word, name in NAMES if word == "kind "}
    assert set(STEPS.names()) <= steps
    assert set(KINDS.names()) - {"plain"} <= kinds


@pytest.mark.parametrize("name", sorted({name for _, name in NAMES if "/" in name}))
def test_named_module_exists(name: str) -> None:
    assert (ROOT / name).is_file()
