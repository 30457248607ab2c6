# SPDX-License-Identifier: Apache-2.0
"""Commands that compare end with the code that the comparison gave."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from lutvar.cli.errors import FAILED
from lutvar.cli.main import run


@pytest.mark.parametrize(("mismatches", "code"), [(0, 0), (3, FAILED)])
def test_study_fails_when_a_value_differs(
    mismatches: int, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    from lutvar.sim.run import studies
    from lutvar.sim.run.measure import PassFigures

    used = PassFigures("all", 1, 1, 100, 50, {}, 64, 0.0, 0.0, 0.0, 0, 0, 90)

    def run_variants(
        _model: object, variants: Sequence[studies.Variant], _out: Path, **_: object
    ) -> list[studies.Outcome]:
        return [studies.Outcome(v, used, used, mismatches) for v in variants]

    monkeypatch.setattr(studies, "run_variants", run_variants)
    out = tmp_path / "study.json"
    assert run(["study", "ablation", "-o", str(out)]) == code
    assert capsys.readouterr().out.strip() == out.with_suffix(".md").read_text().strip()
    report = json.loads(out.read_text())
    assert len(report["ablation"]) == len(studies.ABLATION)
    assert "sharing" not in report
    assert report["different"] == mismatches * len(studies.ABLATION)


@pytest.mark.parametrize(("equal", "code"), [(True, 0), (False, FAILED)])
def test_demo_exit_code_is_the_comparison(
    equal: bool, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    from types import SimpleNamespace

    from lutvar.sim.run import demo

    asked: dict[str, object] = {}

    def run_demo(out: Path, **options: object) -> object:
        asked.update(options, out=out)
        return SimpleNamespace(ok=equal, as_dict=lambda: {"ok": equal})

    monkeypatch.setattr(demo, "run_demo", run_demo)
    arguments = ["demo", "--class", "3", "--config", "small-fp6", "--slots", "2", "--stagger", "1"]
    assert run([*arguments, "--json", "-o", str(tmp_path)]) == code
    assert json.loads(capsys.readouterr().out) == {"ok": equal}
    assert (asked["labels"], asked["config"], asked["out"]) == ([3], "small-fp6", tmp_path)
    assert (asked["slots"], asked["stagger"]) == (2, 1)
    assert (asked["edit"], asked["smooth"]) == (False, False)


def _fake_benches(monkeypatch: pytest.MonkeyPatch, passed: bool) -> list[str]:
    """Replace the runner by one that notes the simulators and gives one result each."""
    from lutvar.sim import runner

    asked: list[str] = []

    def run_testbenches(sim: str, config: str | None, **_: object) -> list[runner.SimulationResult]:
        asked.append(sim)
        return [
            runner.SimulationResult(
                sim, "registers.one", passed, 1.0, "" if passed else "y differs"
            )
        ]

    monkeypatch.setattr(runner, "run_testbenches", run_testbenches)
    return asked


@pytest.mark.parametrize(("passed", "code"), [(True, 0), (False, FAILED)])
def test_sim_exit_code_is_the_benches(
    passed: bool, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = _fake_benches(monkeypatch, passed)
    assert run(["sim", "--sim", "icarus", "--sim", "verilator"]) == code
    assert sorted(asked) == ["icarus", "verilator"]
    out = capsys.readouterr().out
    assert ("FAIL" in out) is not passed
    assert ("y differs" in out) is not passed


def test_sim_leaves_icarus_out_when_it_is_not_installed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from lutvar.sim import tools

    gone = tools.Tool("icarus", "11.0", None, None, False, "benches")
    monkeypatch.setattr(tools, "icarus", lambda: gone)
    asked = _fake_benches(monkeypatch, True)
    assert run(["sim", "--json"]) == 0
    assert asked == ["verilator"]
    captured = capsys.readouterr()
    assert "Icarus Verilog is not installed" in captured.err
    assert [r["sim"] for r in json.loads(captured.out)] == ["verilator"]
