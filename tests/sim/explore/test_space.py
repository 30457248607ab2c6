# SPDX-License-Identifier: Apache-2.0
"""Spaces, recipes, storages: what is refused, in one line each."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from lutvar.contract.accelerator import load_accelerator
from lutvar.contract.quant_preset import load_quant
from lutvar.sim.explore import study
from lutvar.sim.explore.quality import Quality, QualityError, load_quality
from lutvar.sim.explore.space import ExploreError, Limits, load_space
from lutvar.sim.explore.study import Exploration
from lutvar.sim.model.model import MEMORY_GBS
from lutvar.vivado.board import LINK_MBPS
from lutvar.yaml_files import YamlError, shipped
from support.sim.explore import space, task

RECORD = Path(__file__).parents[3] / "docs" / "results.jsonl"


def test_shipped_spaces() -> None:
    for name in shipped("spaces"):
        found = load_space(name)
        assert found.name == name and found.size > 1000
        assert found.limits == Limits()


def test_limits_are_those_of_the_board() -> None:
    assert Limits().link_gbs * 1000 == LINK_MBPS and Limits().memory_gbs == MEMORY_GBS


def test_candidates() -> None:
    one = space(fields={"rows": [16, 32], "act_banks": [2, 3, 4]}, clocks=[200.0, 250.0])
    assert one.size == 12 == len({str(values) for values in one.candidates()})
    assert one.dimensions == {"rows": [16, 32], "act_banks": [2, 3, 4], "clock": [200.0, 250.0]}
    assert one.with_values({"rows": [48]}).dimensions["rows"] == [48]
    assert one.fingerprint() != one.with_values({"rows": [48]}).fingerprint()
    assert one.contains(load_accelerator("small-fp4").model_copy(update={"rows": 32}))
    assert not one.contains(load_accelerator("small-fp4").model_copy(update={"rows": 48}))
    assert not one.contains(load_accelerator("vck190-fp4"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("name: x\nbase: small-fp4\nfields: {row: [16]}", "'row' is no field of an accelerator"),
        ("name: x\nbase: small-fp4\nfields: {rows: []}", "rows: no value"),
        ("name: x\nbase: small-fp4\nfields: {rows: [16, 16]}", "a value is there twice"),
        ("name: x\nbase: small-fp4\nfields: {rows: {low: 3, high: 1}}", "high 1 is below low 3"),
        ("name: x\nbase: small-fp4\nfields: {}\nclocks: [0]", "must be above 0"),
        ("name: x\nbase: nothing\nfields: {}", "unknown"),
        ("name: x\nbase: small-fp4\npreset: nothing\nfields: {}", "unknown"),
        ("name: x\nbase: small-fp4\nfields: {}\nlimits: {lut: 1.5}", "limits.lut"),
    ],
)
def test_wrong_spaces(content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(content)
    with pytest.raises(ValueError, match=message) as caught:
        load_space(path)
    assert "\n" not in str(caught.value)


def test_unknown_space() -> None:
    with pytest.raises(YamlError, match="unknown space 'nothing'; shipped: vck190-fp4"):
        load_space("nothing")
    with pytest.raises(ExploreError, match="space tiny: 'row' is no field"):
        space().with_values({"row": [1]})


def test_quality_of_recipes() -> None:
    found = load_quality(RECORD, ["fpqvar-fp4", "fpqvar-fp6"])
    assert {q.on for q in found.values()} == {"golden"}
    assert found["fpqvar-fp6"].preset == "fp6" and found["fpqvar-fp4"].preset == "fp4"
    assert found["fpqvar-fp6"].kl < found["fpqvar-fp4"].kl < 0.05
    for recipe, message in (
        ("nothing", "unknown recipe 'nothing'; those with a KL in .* are .*best-fp4"),
        ("int4-rtn", "recipe 'int4-rtn' does not run on the accelerator: .*qkv, proj, fc1, fc2"),
    ):
        with pytest.raises(QualityError, match=message):
            load_quality(RECORD, ["fpqvar-fp4", recipe])


def test_recipes_not_measured_in_the_same_way(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    rows = [json.loads(line) for line in RECORD.read_text().splitlines()]
    wanted = (("fpqvar-fp4", "golden"), ("gptq-fp4", "fake"))
    kept = [row for row in rows if (row["key"]["recipe"], row["key"]["on"]) in wanted]
    path.write_text("".join(json.dumps(row) + "\n" for row in kept))
    with pytest.raises(QualityError, match="computed in the same way"):
        load_quality(path, ["fpqvar-fp4", "gptq-fp4"])
    with pytest.raises(QualityError, match="no KL of recipe 'best-fp4'; measure it"):
        load_quality(path, ["best-fp4"])


def test_a_recipe_chooses_the_formats() -> None:
    one = space(fields={"rows": [16]}, recipes=["a", "b"])
    quality = {
        "a": Quality("a", "fp4", "E2M3", 0.02, "golden", "cifar10"),
        "b": Quality("b", "fp6", "E2M1", 0.001, "golden", "cifar10"),
    }
    assert one.size == 2
    config = one.config({"rows": 16, "recipe": "b"}, quality, "x")
    assert (config.quant, config.kv_format) == ("fp6", "E2M1")
    # An accelerator with the dual format runs models without it, and is kept.
    quality["a"] = replace(quality["a"], preset="fp4-single")
    assert one.config({"rows": 16, "recipe": "a"}, quality, "x").quant == "fp4"
    assert one.model_preset({"recipe": "a"}, quality, "fp4") == load_quant("fp4-single")
    assert space().model_preset({}, {}, "fp4") == load_quant("fp4-single")
    assert space(preset="fp4").model_preset({}, {}, "fp4") == load_quant("fp4")
    both = task(space=one, quality=quality)
    assert both.objectives == ["latency", "throughput", "per_lut", "kl"]
    assert task().objectives == ["latency", "throughput", "per_lut"]


def test_storages_of_something_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(tmp_path / "trials.log")
    Exploration(task(), path).run(2)
    for other, message in (
        (task(space=space(fields={"rows": [16, 32]})), "is of another space; take another"),
        (task(model="other"), r"is of another model \(tiny, now other\)"),
        (task(guided=False), "other figures of recipes, units or model"),
    ):
        with pytest.raises(ExploreError, match=message) as caught:
            Exploration(other, path)
        assert "\n" not in str(caught.value) and path in str(caught.value)
    monkeypatch.setattr(study, "model_hash", lambda: "0")
    with pytest.raises(ExploreError, match="another cycle model"):
        Exploration(task(), path)
    monkeypatch.undo()
    monkeypatch.setattr(study, "FORMAT", "lutvar-explore-2")
    with pytest.raises(ExploreError, match=r"another version \(lutvar-explore-1, now lutvar-e"):
        Exploration(task(), path)
    monkeypatch.undo()
    assert Exploration(task(), path).trials == 2


@pytest.mark.parametrize("content", ["no journal\n", '{"a": 1}\n', "\x00\x01\n"])
def test_a_file_that_is_no_storage(content: str, tmp_path: Path) -> None:
    path = tmp_path / "trials.log"
    path.write_text(content)
    with pytest.raises(ExploreError, match="cannot be used") as caught:
        Exploration(task(), str(path))
    assert "\n" not in str(caught.value) and path.read_text() == content


def test_no_such_database() -> None:
    with pytest.raises(ExploreError, match="cannot be used"):
        Exploration(task(), "nothing://nowhere")
