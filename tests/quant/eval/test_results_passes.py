# SPDX-License-Identifier: Apache-2.0
"""A recipe over the array's cycles: its budgets in the plan, rows, section and picture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from lutvar.cli.main import run
from lutvar.quant.eval.record import Hardware, Record, Row
from lutvar.quant.eval.reference import load_reference
from lutvar.quant.eval.results import Comparison
from lutvar.quant.eval.results_passes import draw_passes, passes_rows
from lutvar.quant.eval.results_plan import Passes, ResultsPlan, load_plan
from lutvar.quant.eval.results_text import document_text
from lutvar.quant.methods import RecipeError, load_recipe

PLAN: dict[str, Any] = {
    "model": "digits",
    "samples": 70,
    "seeds": [0, 1, 2],
    "teacher": 4,
    "plain": "fp4-baseline",
    "best": "fp4-passes",
    "worst": "int4-rtn",
    "six": "int4-rtn",
    "sheet": ["float"],
    "groups": [{"title": "some", "recipes": ["fp4-baseline", "int4-rtn", "fp4-passes"]}],
    "passes": {"recipe": "fp4-passes", "budgets": [100, 0]},
}


def test_the_shipped_plan_has_the_budgets_of_the_curve() -> None:
    passes = load_plan().passes
    assert passes is not None and passes.budgets == (0, 5, 10, 25, 50, 100)


def test_a_budget_replaces_the_recipes_own() -> None:
    passes, base = Passes(recipe="fp4-passes", budgets=(2.5, 38)), load_recipe("fp4-passes")
    assert passes.names() == ["fp4-passes-2_5", "fp4-passes-38"]
    recipe, same = passes.recipes().values()
    assert recipe.name == "fp4-passes-2_5" and same.steps == base.steps
    changed = [b for a, b in zip(base.steps, recipe.steps, strict=True) if a != b]
    assert changed == [{"step": "mixed-passes", "budget": 2.5}]
    with pytest.raises(RecipeError, match="fp4-baseline: has no step mixed-passes"):
        Passes(recipe="fp4-baseline", budgets=(2, 3)).recipes()


@pytest.mark.parametrize(
    ("passes", "message"),
    [
        ({"recipe": "gptq-fp4", "budgets": [0, 5]}, "'gptq-fp4' is in no group"),
        ({"recipe": "fp4-passes", "budgets": [5, 5.0]}, "same name"),
        ({"recipe": "fp4-passes", "budgets": [5]}, "budgets"),
    ],
)
def test_bad_plans(tmp_path: Path, passes: dict[str, Any], message: str) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text(yaml.safe_dump(PLAN | {"passes": passes}))
    with pytest.raises(RecipeError, match=message):
        load_plan(path)


def filled(folder: Path, cycles: dict[str, float]) -> Comparison:
    """A comparison whose record has golden rows of some recipes with these cycles."""
    comparison = Comparison(
        ResultsPlan.model_validate(PLAN), Record(folder / "results.jsonl"), folder
    )
    for number, (name, more) in enumerate(cycles.items()):
        known = Hardware(
            bits_per_weight=4.1, runs=True, preset="fp4", kv_format="E2M3", missing=(),
            more_cycles=more,
        )  # fmt: skip
        runs = tuple(
            {"seed": seed, "forced": {"kl_nats": 0.01 * (1 + number) + seed / 1000},
             "paired": {"frechet": 0.5, "tokens": 0.4},
             "samples": {"frechet": 12.0, "agreement": 0.3}}
            for seed in (0, 1, 2)
        )  # fmt: skip
        key = comparison.key(comparison.plan.main, name, "golden", known)
        comparison.record.put(
            [Row(key=key, lutvar="0", date="2026-01-01", hardware=known, runs=runs)]
        )
    return comparison


def test_rows_are_in_the_order_of_cycles(tmp_path: Path) -> None:
    comparison = filled(tmp_path, {"fp4-passes": 37.84, "fp4-passes-100": 98.0})
    names = [name for name, row in passes_rows(comparison) if row is not None]
    assert names == ["fp4-passes", "fp4-passes-100"]
    curve = tmp_path / "curve.png"
    assert draw_passes(comparison, curve) and curve.read_bytes().startswith(b"\x89PNG")
    text = document_text(comparison, load_reference(comparison.model), [], curve.name)
    section = text.split("## Precision over the array's cycles")[1].split("## The paper")[0]
    lines = [line for line in section.splitlines() if line.startswith("| `")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert [row[:2] for row in rows] == [
        ["`fp4-passes`", "37.8"], ["`fp4-passes-100`", "98.0"], ["`fp4-passes-0`", ""],
    ]  # fmt: skip
    assert rows[0][4].startswith("0.0110 ± ") and rows[2][2] == "not measured"
    assert "](curve.png)" in section
    # A budget is measured on the golden model alone.
    states = comparison.states(comparison.plan.main, "fp4-passes-100")
    assert [s.key.on for s in states] == ["golden"]
    assert [s.key.on for s in comparison.states(comparison.plan.main, "fp4-passes")] == [
        "golden", "fake",
    ]  # fmt: skip


def test_one_point_is_no_curve(tmp_path: Path) -> None:
    comparison = filled(tmp_path, {"fp4-passes": 37.84})
    assert not draw_passes(comparison, tmp_path / "curve.png")
    assert not (tmp_path / "curve.png").exists()


@pytest.mark.slow
def test_rows_have_the_cycles_of_their_terms(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = load_recipe("fpqvar-fp4-head2").model_dump(mode="json")
    values["steps"] = [{"step": "hadamard", "sites": ["qkv", "fc1", "head"]}]
    values |= {"name": "few", "calibration": None}
    recipe, path, page = tmp_path / "few.yaml", tmp_path / "plan.yaml", tmp_path / "page.md"
    recipe.write_text(yaml.safe_dump({k: v for k, v in values.items() if v is not None}))
    groups = [{"title": "a", "recipes": ["fp4-baseline", "int4-rtn", str(recipe)]}]
    plan = PLAN | {"best": str(recipe), "groups": groups, "passes": None}
    path.write_text(yaml.safe_dump(plan))
    options = ["--plan", str(path), "-o", str(tmp_path / "work"), "--markdown", str(page)]
    assert run(["results", *options, "--jobs", "1", "--only", str(recipe)]) == 0
    lines = (tmp_path / "page.jsonl").read_text().splitlines()
    rows = [Row.model_validate(json.loads(line)) for line in lines]
    assert {row.key.on for row in rows} == {"golden", "fake"}
    # The head's 128 columns of one group, of 4 * (384 + 128 + 512 + 2 * 4 * 128) + 128, in four
    # products in place of one.
    for row in rows:
        assert row.hardware is not None
        assert row.hardware.more_cycles == pytest.approx(100 * 3 * 128 / (4 * 2048 + 128), abs=0.01)
    assert "Precision over" not in page.read_text()
    capsys.readouterr()
