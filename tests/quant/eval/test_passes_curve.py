# SPDX-License-Identifier: Apache-2.0
"""KL over the cycles of terms: points of the curve, and the files of the command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lutvar.contract.terms import Terms
from lutvar.quant.eval import passes_curve
from lutvar.quant.eval.passes_curve import Curve, draw
from lutvar.quant.methods import Recipe, load_recipe
from lutvar.quant.models import load_model
from lutvar.quant.var.sites import LinearSite


def recipe() -> Recipe:
    """fpqvar-fp4-head2 with nothing learned."""
    values = load_recipe("fpqvar-fp4-head2").model_dump()
    values["steps"] = [{"step": "hadamard", "sites": ["qkv", "fc1", "head"]}]
    return Recipe.model_validate(values)


def test_points_and_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    curve = Curve(load_model("digits"), recipe(), images=1, samples=1)
    monkeypatch.setattr(passes_curve, "HEAD", ((1, 1), (2, 2)))
    lines: list[str] = []
    points = curve.points((0, 100), lines.append)
    assert [p.name for p in points] == ["head 1, 1", "head 2, 2", "0 %", "100 %"]
    one, head, none, double = points
    # The head's 128 columns of one group, of 4 * (384 + 128 + 512 + 2 * 4 * 128) + 128.
    assert one.cycles == 0 and head.cycles == pytest.approx(100 * 3 * 128 / (4 * 2048 + 128))
    assert one.terms == {} and head.terms == {"head": (2, 2)}
    assert none.kl == one.kl and double.kl < 0.4 * one.kl and head.kl < one.kl
    assert 70 < double.cycles <= 100 and len(lines) == 4
    assert curve.point("again", {LinearSite(4, "head"): Terms(2, 2)}).kl == head.kl
    draw(tmp_path / "p.png", points, "digits")
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")


def test_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passes_curve, "BUDGETS", ())
    monkeypatch.setattr(passes_curve, "HEAD", ((1, 1),))
    monkeypatch.setattr(Curve.points, "__defaults__", ((), print))
    monkeypatch.setattr(passes_curve, "load_recipe", lambda name: recipe())
    passes_curve.main(["--model", "digits", "--images", "1", "--out", str(tmp_path)])
    data = json.loads((tmp_path / "passes-digits.json").read_text())
    assert data["images"] == 1 and len(data["points"]) == 1 and data["points"][0]["kl"] > 0
    assert (tmp_path / "passes-digits.png").exists()
