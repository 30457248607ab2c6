# SPDX-License-Identifier: Apache-2.0
"""`lutvar results`: plan, page, picture, and what is not measured twice."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from lutvar.cli.main import run
from lutvar.quant.eval.record import Record, Row
from lutvar.quant.eval.reference import load_reference
from lutvar.quant.eval.results import Comparison, sheet_rows
from lutvar.quant.eval.results_order import difference
from lutvar.quant.eval.results_plan import load_plan
from lutvar.quant.eval.results_text import document_text
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


TASKS: dict[str, Any] = {
    "names": ["outpaint", "edit"],
    "recipes": ["fpqvar-fp4-no-galt"],
    "samples": 70,
    "seeds": [0, 1, 2],
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
    assert plan.tasks is not None and len(plan.edits) == 3
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
        ({"tasks": TASKS | {"recipes": ["gptq-fp4"]}}, "'gptq-fp4' is in no group"),
        ({"tasks": TASKS | {"names": ["colour"]}}, "tasks.names"),
    ],
)
def test_bad_plans(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        load_plan(write_plan(tmp_path, **changes))
    with pytest.raises(RecipeError, match="cannot read"):
        load_plan(tmp_path / "nothing.yaml")


def results(tmp_path: Path, *arguments: str, **changes: object) -> int:
    """`lutvar results` on a small plan of one group."""
    groups = [{"title": "some", "recipes": ["int4-rtn", "fp4-baseline", "fpqvar-fp4-no-galt"]}]
    plan = write_plan(tmp_path, **{"six": "fp4-baseline", "groups": groups, **changes})
    jobs = () if {"--page", "--list"} & {*arguments} else ("--jobs", "1")
    return run(
        [
            "results", "--plan", str(plan), "-o", str(tmp_path / "work"),
            "--markdown", str(tmp_path / "results.md"), *jobs, *arguments,
        ]
    )  # fmt: skip


def rows_of(text: str) -> list[list[str]]:
    """Cells of the tables' rows."""
    lines = [line for line in text.splitlines() if line.startswith(("| `", "| float32"))]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


@pytest.mark.slow
def test_page_of_a_small_plan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert results(tmp_path) == 0
    text = (tmp_path / "results.md").read_text()
    rows = rows_of(text)
    assert [(row[0].strip("`"), row[3]) for row in rows] == [
        ("float32", "float32"),
        ("int4-rtn", "fake-quantized"),
        ("fp4-baseline", "fake-quantized"),
        ("fpqvar-fp4-no-galt", "golden model"),
        ("fpqvar-fp4-no-galt", "fake-quantized"),
    ]
    assert rows[3][1] == "W4A4: qkv, proj, fc1, fc2, head; q, k, v E2M3"
    kl = [float(row[6].split(" ± ")[0]) for row in rows[1:]]
    assert kl[0] > kl[1] > kl[3] > 0, "INT4 is the worst of the fake-quantized ones"
    assert kl[2] > 1.2 * kl[3], "the golden model quantizes the head as well"
    assert "no shipped configuration" in text and "](results.png)" in text
    assert (tmp_path / "results.png").read_bytes().startswith(b"\x89PNG")
    record = Record(tmp_path / "results.jsonl")
    assert len(record.rows) == 5
    golden = next(r for r in record.rows.values() if r.key.on == "golden")
    assert golden.hardware is not None and golden.hardware.preset == "fp4"
    assert len(golden.runs) == 3 and golden.figure("forced.kl_nats") is not None
    assert len(record.rows) == len(json.loads((tmp_path / "work/results.json").read_text())["rows"])

    # The record alone makes the page again, without models or samples.
    (tmp_path / "work").rename(tmp_path / "away")
    (tmp_path / "results.md").unlink()
    capsys.readouterr()
    assert results(tmp_path, "--page") == 0
    assert (tmp_path / "results.md").read_text() == text
    assert not list((tmp_path / "work").rglob("*.safetensors"))
    # Nothing is measured twice, and a row that is not there is.
    before = (tmp_path / "results.jsonl").read_text()
    assert results(tmp_path) == 0
    assert (tmp_path / "results.jsonl").read_text() == before
    lines = before.splitlines()
    kept = [line for line in lines if json.loads(line)["key"]["recipe"] != "int4-rtn"]
    (tmp_path / "results.jsonl").write_text("\n".join(kept) + "\n")
    assert results(tmp_path, "--list") == 1
    assert "to do" in capsys.readouterr().out
    assert results(tmp_path) == 0
    assert (tmp_path / "results.jsonl").read_text() == before, "the same figures, again"
    assert results(tmp_path, "--list") == 0


@pytest.mark.slow
def test_focus_reuses_samples_and_decides(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    work = tmp_path / "work"
    assert results(tmp_path) == 0
    text = (tmp_path / "results.md").read_text()
    assert "More samples" not in text and "fake-quantized, 70 images, 3 seeds: KL" in text
    before = {p: p.stat().st_mtime_ns for p in work.rglob("*.safetensors") if p.is_file()}
    first = set((tmp_path / "results.jsonl").read_text().splitlines())
    assert results(tmp_path, focus=FOCUS) == 0
    assert {p: p.stat().st_mtime_ns for p in before} == before, "nothing is made twice"
    # float, two recipes fake and one golden; 40 more images at seeds 0 to 2, and all at seed 5.
    added = {p.parent for p in work.rglob("chunk-*.safetensors")} - {p.parent for p in before}
    assert {p.name for p in added} == {"seed5"} and len(added) == 4
    lines = (tmp_path / "results.jsonl").read_text().splitlines()
    assert first < set(lines), "the first tables stay what they were"
    rows = [Row.model_validate_json(line) for line in set(lines) - first]
    assert {r.key.samples for r in rows} == {110} and {len(r.runs) for r in rows} == {4}
    text = (tmp_path / "results.md").read_text()
    section = text.split("## More samples for the main recipes")[1].split("## The paper")[0]
    assert "110 images for each of 4 seeds" in section
    assert [row[0].strip("`") for row in rows_of(section)] == [
        "float32", "fp4-baseline", "fpqvar-fp4-no-galt", "fpqvar-fp4-no-galt",
    ]  # fmt: skip
    # The statement is made of the larger runs, seed by seed.
    kl = {r.key.recipe: r.values("forced.kl_nats") for r in rows if r.key.on == "fake"}
    apart = [a - b for a, b in zip(kl["fpqvar-fp4-no-galt"], kl["fp4-baseline"], strict=True)]
    mean = sum(apart) / 4
    half = 3.182 * (sum((x - mean) ** 2 for x in apart) / 3 / 4) ** 0.5  # Student t, 3 degrees
    found = re.search(r"fake-quantized, 110 images, 4 seeds: KL ([+-][\d.]+) ± ([\d.]+)", text)
    assert found is not None
    assert float(found[1]) == pytest.approx(mean, abs=1e-5)
    assert float(found[2]) == pytest.approx(half, abs=2e-5)
    capsys.readouterr()


@pytest.mark.slow
def test_tables_of_the_tasks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert results(tmp_path, "--only", "fpqvar-fp4-no-galt", "--only", "float", tasks=TASKS) == 0
    text = (tmp_path / "results.md").read_text()
    section = text.split("## Editing tasks")[1].split("## The paper")[0]
    assert re.findall("### ([A-Z][a-z-]+)", section) == ["Out-painting", "Editing"]
    rows = rows_of(section)
    assert [row[3] for row in rows] == ["float32", "golden model", "fake-quantized"] * 2
    assert all(row[4] and row[9] for row in rows) and not rows[0][5] and rows[1][5]
    record = Record(tmp_path / "results.jsonl")
    edited = [row for row in record.rows.values() if row.key.task != "generate"]
    assert len(edited) == 6 and all(row.key.settings["box"] for row in edited)
    assert all(value == 1 for row in edited for value in row.values("region.kept"))
    capsys.readouterr()
    assert results(tmp_path, "--list", tasks=TASKS) == 1
    states = capsys.readouterr().out.splitlines()
    assert all("done" in line for line in states if "outpaint" in line or " edit " in line)


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--only", "gptq-fp4"], "'gptq-fp4' is no recipe of the plan"),
        (["--page", "--list"], "exclude each other"),
        (["--page", "--again"], "measures nothing) makes no use of --again"),
    ],
)
def test_bad_options(
    tmp_path: Path, arguments: list[str], part: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert results(tmp_path, *arguments) == 2
    assert part in capsys.readouterr().err
    assert not (tmp_path / "results.md").exists()


def test_a_page_before_anything_is_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert results(tmp_path, "--page") == 0
    text = (tmp_path / "results.md").read_text()
    assert text.count("| not measured |") == 4 and "4 rows are not measured yet" in text
    assert (
        "results.png" not in text and "nan" not in text and not (tmp_path / "results.png").exists()
    )
    assert results(tmp_path, "--list") == 1


def test_the_page_in_the_docs_is_that_of_the_record_beside_it() -> None:
    docs = Path(__file__).parents[3] / "docs"
    comparison = Comparison(load_plan(), Record(docs / "results.jsonl"), Path("build/results"))
    shown = [name for name, _, _ in sheet_rows(comparison)]
    curve = "results-passes.png"
    text = document_text(
        comparison, load_reference(comparison.model), shown,
        curve if (docs / curve).exists() else "",
    )  # fmt: skip
    assert text == (docs / "results.md").read_text(encoding="utf-8"), (
        "write it with: lutvar results --markdown docs/results.md --page"
    )
    assert (docs / "results.png").exists() == bool(shown)


def test_difference_is_taken_seed_by_seed() -> None:
    def row(values: dict[int, float]) -> Row:
        runs = [{"seed": s, "forced": {"kl_nats": v}} for s, v in values.items()]
        return Row.model_construct(runs=tuple(runs), source="measured")  # type: ignore[call-arg]

    ours, base = row({1: 5.0, 0: 2.0}), row({0: 1.5, 1: 3.0})
    assert difference(ours, base, "forced.kl_nats") == [0.5, 2.0]
