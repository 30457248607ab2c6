# SPDX-License-Identifier: Apache-2.0
"""`lutvar results`: plan, sharing of layers, document, and what is not made twice."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from lutvar.cli.main import run
from lutvar.eval.results import difference, load_plan
from lutvar.quant.methods import RecipeError, load_recipe, recipe_names

PLAN = {
    "model": "digits",
    "samples": 70,
    "seeds": [0, 1, 2],
    "teacher": 4,
    "plain": "fp4-baseline",
    "best": "fpqvar-fp4-no-galt",
    "worst": "int4-rtn",
    "six": "fpqvar-fp6",
    "sheet": ["float", "int4-rtn"],
    "groups": [
        {"title": "some", "recipes": ["int4-rtn", "fp4-baseline", "fpqvar-fp4-no-galt"]},
        {"title": "six bits", "recipes": ["fpqvar-fp6"]},
    ],
}


def write_plan(folder: Path, **changes: object) -> Path:
    path = folder / "plan.yaml"
    path.write_text(yaml.safe_dump(PLAN | changes))
    return path


def test_the_shipped_plan_names_recipes_that_exist() -> None:
    plan = load_plan()
    assert set(plan.recipes()) <= set(recipe_names())
    assert len(plan.seeds) >= 3
    for name in (plan.plain, plan.best):
        assert load_recipe(name).layers["fc2"].weight is not None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seeds": [0]}, "seeds"),
        ({"best": "gptq-fp4"}, "'gptq-fp4' is in no group"),
        ({"colour": "red"}, "colour"),
        ({"groups": [{"title": "a", "recipes": ["int4-rtn", "int4-rtn"]}]}, "two groups|no group"),
    ],
)
def test_bad_plans(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        load_plan(write_plan(tmp_path, **changes))
    with pytest.raises(RecipeError, match="cannot read"):
        load_plan(tmp_path / "nothing.yaml")


def test_document_of_a_small_plan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    groups = [{"title": "some", "recipes": ["int4-rtn", "fp4-baseline", "fpqvar-fp4-no-galt"]}]
    plan = write_plan(tmp_path, six="fp4-baseline", groups=groups)
    arguments = [
        "results", "--plan", str(plan), "-o", str(tmp_path / "work"),
        "--markdown", str(tmp_path / "results.md"), "--jobs", "1",
    ]  # fmt: skip
    assert run(arguments) == 0
    text = (tmp_path / "results.md").read_text()
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| `")]
    assert [row[0].strip("| `") for row in rows] == groups[0]["recipes"]
    assert [row[3] for row in rows] == ["no", "no", "yes"]
    kl = [float(row[6].split(" ± ")[0]) for row in rows]
    assert kl[0] > kl[1] > 0 and kl[0] > kl[2] > 0, "INT4 is the worst"
    assert "no shipped configuration" in text and "](results.png)" in text
    assert (tmp_path / "results.png").read_bytes().startswith(b"\x89PNG")
    data = json.loads((tmp_path / "work" / "results.json").read_text())
    assert len(data["runs"]) == 4 * 3 and data["hardware"]["fpqvar-fp4-no-galt"]["runs"]
    made = {p: p.stat().st_mtime_ns for p in (tmp_path / "work").rglob("*.safetensors")}
    assert made
    capsys.readouterr()
    assert run(arguments) == 0
    assert {p: p.stat().st_mtime_ns for p in made} == made, "nothing is made twice"
    assert (tmp_path / "results.md").read_text() == text


def test_difference_is_taken_seed_by_seed() -> None:
    class Run:
        def __init__(self, seed: int, value: float) -> None:
            self.seed, self.value = seed, value

    ours = [Run(1, 5.0), Run(0, 2.0)]
    base = [Run(0, 1.5), Run(1, 3.0)]
    assert difference(ours, base, lambda r: r.value) == [0.5, 2.0]  # type: ignore[arg-type]
