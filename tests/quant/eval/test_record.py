# SPDX-License-Identifier: Apache-2.0
"""The record of results: keys, what makes a row stale, and files that are none."""

from __future__ import annotations

from pathlib import Path

import pytest

from lutvar.quant.eval.record import Hardware, Key, Record, RecordError, Row, arithmetic_hash
from lutvar.quant.eval.results import recipe_hash
from lutvar.quant.methods import load_recipe

KEY = Key(
    model="digits",
    fingerprint="f" * 64,
    recipe="best-fp4",
    recipe_sha256="a" * 64,
    on="golden",
    arithmetic="0" * 16,
    task="generate",
    samples=100,
    seeds=(0, 1, 2),
    teacher=10,
    settings={"cfg": 1.5, "top_k": 0},
)
HARDWARE = Hardware(bits_per_weight=4.1, runs=True, preset="fp4", kv_format="E2M3", missing=())


def row(key: Key = KEY, **changes: object) -> Row:
    runs = tuple({"seed": s, "forced": {"kl_nats": 0.01 * s}, "paired": None} for s in (2, 0, 1))
    values = {"key": key, "lutvar": "0.2.0", "date": "2026-11-30", "hardware": HARDWARE}
    return Row(**{**values, "runs": runs, **changes})  # type: ignore[arg-type]


def test_rows_come_back_from_the_file(tmp_path: Path) -> None:
    record = Record(tmp_path / "r.jsonl")
    fake = KEY.model_copy(update={"on": "fake", "arithmetic": ""})
    printed = row(fake, source="printed", runs=(), printed={"forced.kl_nats": (0.5, 0.25)})
    record.put([row(), printed])
    again = Record(tmp_path / "r.jsonl")
    assert again.rows == record.rows and len(again.rows) == 2
    assert [s.state for s in (again.state(KEY), again.state(fake))] == ["done", "printed"]
    found = again.rows[KEY.id]
    assert found.values("forced.kl_nats") == [0, 0.01, 0.02], "in the order of seeds"
    figure = found.figure("forced.kl_nats")
    # Student t of 3 values: 4.3027 * 0.01 / sqrt(3).
    assert figure is not None and figure.mean == pytest.approx(0.01)
    assert figure.half_width == pytest.approx(0.024841, rel=1e-4)
    assert found.figure("paired.frechet") is None and found.figure("samples.frechet") is None
    figure = again.rows[fake.id].figure("forced.kl_nats")
    assert figure is not None and (figure.mean, figure.half_width) == (0.5, 0.25)
    assert again.rows[fake.id].figure("paired.frechet") is None
    # What is known about the recipe, as it is and not as it was.
    assert again.hardware("best-fp4", "a" * 64, "f" * 64) == HARDWARE
    assert again.hardware("best-fp4", "b" * 64, "f" * 64) is None


def test_what_makes_a_row_stale(tmp_path: Path) -> None:
    record = Record(tmp_path / "r.jsonl")
    assert record.state(KEY).state == "to do"
    record.put([row()])
    for name, value in {
        "recipe_sha256": "b" * 64, "fingerprint": "0" * 64, "arithmetic": "1" * 16, "teacher": 5,
        "settings": {"cfg": 2.0},
    }.items():  # fmt: skip
        state = record.state(KEY.model_copy(update={name: value}))
        assert (state.state, state.why) == ("stale", f"measured with another {name}")
    for name, value in {"samples": 50, "seeds": (0, 1), "task": "inpaint", "on": "fake"}.items():
        assert record.state(KEY.model_copy(update={name: value})).state == "to do", "another row"
    # A new row takes the place of the old one.
    other = KEY.model_copy(update={"teacher": 5})
    record.put([row(other)])
    assert len(Record(record.path).rows) == 1 and record.state(other).state == "done"


def test_a_file_that_is_no_record(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    Record(path).put([row()])
    good = path.read_text()
    for text, part in (
        (good + "{}\n", "line 2 is no row of results"),
        (good.replace("lutvar-results-1", "lutvar-results-2"), r"line 1 .*\(format"),
        (good.replace('"kv_format"', '"kv"'), r"hardware"),
        (good[:100], "line 1 is no row"),
    ):
        path.write_text(text)
        with pytest.raises(RecordError, match=part):
            Record(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(RecordError, match="cannot be read"):
        Record(path)


def test_hashes_say_what_matters() -> None:
    presets = {(p, kv): arithmetic_hash(p, kv) for p in ("fp4", "fp6") for kv in ("E2M3", "E2M1")}
    assert len(set(presets.values())) == 4
    recipe = load_recipe("fpqvar-fp4")
    assert recipe_hash(recipe) == recipe_hash(recipe.model_copy(update={"title": "other"}))
    assert recipe_hash(recipe) != recipe_hash(recipe.model_copy(update={"seed": 1}))


def test_the_shipped_record_fits_the_shipped_plan() -> None:
    """The page beside it was made from it; rows of recipes that are gone would stay unseen."""
    from lutvar.quant.eval.results_plan import load_plan

    record = Record(Path(__file__).parents[3] / "docs" / "results.jsonl")
    plan = load_plan()
    names = {"float", *plan.recipes(), *(plan.passes.names() if plan.passes else ())}
    assert {row.key.recipe for row in record.rows.values()} <= names
    # A change of what golden transformers compute needs these rows again; one of anything else
    # must not ask for them.
    golden = {row.key.arithmetic for row in record.rows.values() if row.key.on == "golden"}
    presets = {r.key.recipe: (r.hardware.preset, r.hardware.kv_format)
               for r in record.rows.values() if r.hardware and r.key.on == "golden"}  # fmt: skip
    assert golden == {arithmetic_hash(*known) for known in presets.values()}
    assert {row.key.model for row in record.rows.values()} == {"cifar10"}
