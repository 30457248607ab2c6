# SPDX-License-Identifier: Apache-2.0
"""`lutvar results`: plan, sharing of layers, document, and what is not made twice."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from lutvar.cli.main import run
from lutvar.quant.eval.results import difference, load_plan
from lutvar.quant.methods import RecipeError, load_recipe, recipe_names

PLAN: dict[str, Any] = {
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
FOCUS: dict[str, Any] = {
    "recipes": ["float", "fp4-baseline", "fpqvar-fp4-no-galt"],
    "samples": 110,
    "seeds": [0, 1, 2, 5],
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
    assert plan.focus is not None and {plan.plain, plan.best} <= set(plan.focus.recipes)
    assert plan.focus.samples > plan.samples and set(plan.seeds) < set(plan.focus.seeds)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seeds": [0]}, "seeds"),
        ({"best": "gptq-fp4"}, "'gptq-fp4' is in no group"),
        ({"colour": "red"}, "colour"),
        ({"groups": [{"title": "a", "recipes": ["int4-rtn", "int4-rtn"]}]}, "two groups|no group"),
        ({"focus": FOCUS | {"recipes": ["gptq-fp4"]}}, "'gptq-fp4' is in no group"),
        ({"focus": FOCUS | {"recipes": ["int4-rtn", "int4-rtn"]}}, "focus.recipes: .* twice"),
        ({"focus": FOCUS | {"seeds": [0, 1]}}, "seeds"),
    ],
)
def test_bad_plans(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        load_plan(write_plan(tmp_path, **changes))
    with pytest.raises(RecipeError, match="cannot read"):
        load_plan(tmp_path / "nothing.yaml")


@pytest.mark.slow
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


@pytest.mark.slow
def test_focus_reuses_samples_and_decides(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    groups = [{"title": "some", "recipes": ["int4-rtn", "fp4-baseline", "fpqvar-fp4-no-galt"]}]
    work = tmp_path / "work"

    def made(**changes: object) -> tuple[str, dict[str, Any]]:
        plan = write_plan(tmp_path, six="fp4-baseline", groups=groups, **changes)
        arguments = ["results", "--plan", str(plan), "-o", str(work), "--jobs", "1"]
        assert run(arguments) == 0
        return (work / "results.md").read_text(), json.loads((work / "results.json").read_text())

    text, first = made()
    assert "More samples" not in text and "focus" not in first and ", 3 seeds:" in text
    before = {p: p.stat().st_mtime_ns for p in work.rglob("*.safetensors") if p.is_file()}
    text, data = made(focus=FOCUS)
    assert {p: p.stat().st_mtime_ns for p in before} == before, "nothing is made twice"
    # float and two recipes; 40 more images at seeds 0 to 2, and all at seed 5.
    added = {p.parent for p in work.rglob("chunk-*.safetensors")} - {p.parent for p in before}
    assert {p.name for p in added} == {"seed5"} and len(added) == 3
    assert data["runs"] == first["runs"], "the first tables stay what they were"
    assert data["focus"]["settings"]["samples"] == 110 and len(data["focus"]["runs"]) == 3 * 4
    section = text.split("## More samples for the main recipes")[1].split("## The paper")[0]
    assert "110 images for each of 4 seeds" in section
    rows = [line.split(" | ")[0] for line in section.splitlines() if line.startswith("| ")]
    assert rows == ["| recipe", "| float32", "| `fp4-baseline`", "| `fpqvar-fp4-no-galt`"]
    # The statement is made of the larger runs, seed by seed.
    value = {(r["method"], r["seed"]): r["forced"]["kl_nats"]
             for r in data["focus"]["runs"] if r["forced"]}  # fmt: skip
    apart = [value["fpqvar-fp4-no-galt", s] - value["fp4-baseline", s] for s in FOCUS["seeds"]]
    mean = sum(apart) / 4
    half = 3.182 * (sum((x - mean) ** 2 for x in apart) / 3 / 4) ** 0.5  # Student t, 3 degrees
    found = re.search(r"\* KL: ([+-][\d.]+) ± ([\d.]+)", text)
    assert found is not None and ", 4 seeds:" in text
    assert float(found[1]) == pytest.approx(mean, abs=1e-5)
    assert float(found[2]) == pytest.approx(half, abs=2e-5)
    capsys.readouterr()


def test_difference_is_taken_seed_by_seed() -> None:
    class Run:
        def __init__(self, seed: int, value: float) -> None:
            self.seed, self.value = seed, value

    ours = [Run(1, 5.0), Run(0, 2.0)]
    base = [Run(0, 1.5), Run(1, 3.0)]
    assert difference(ours, base, lambda r: r.value) == [0.5, 2.0]  # type: ignore[arg-type,attr-defined]
