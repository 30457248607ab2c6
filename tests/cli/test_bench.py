# SPDX-License-Identifier: Apache-2.0
"""`lutvar bench`: verdicts, exit codes, files, and that every unit on its list can be built."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from amaranth.back import rtlil  # type: ignore[attr-defined]  # its stubs leave this one out

from lutvar.bench import area
from lutvar.bench import run as bench_run
from lutvar.bench.area import AreaCase, cases, measure
from lutvar.bench.report import BEGIN, END, BenchmarkReport, Measurement, figure, machine
from lutvar.bench.synth import SynthesisError
from lutvar.cli.errors import BAD_INPUT, FAILED
from lutvar.cli.main import run


def _report(*values: float) -> BenchmarkReport:
    made = tuple(Measurement(f"unit {v:g}", v, "LUT", "timed", target=10) for v in values)
    return BenchmarkReport(
        made, machine({"yosys": "0.70", "icarus": None}), quick=True, seconds=1.0
    )


@pytest.mark.parametrize(
    ("value", "target", "higher", "met"),
    [
        (10.0, 10, False, True),
        (10.1, 10, False, False),
        (10.0, 10, True, True),
        (9.9, 10, True, False),
        (None, 10, False, None),
        (5.0, None, False, None),
    ],
)
def test_verdict(value: float | None, target: float | None, higher: bool, met: bool | None) -> None:
    measurement = Measurement("x", value, "LUT", "timed", target, higher)
    assert measurement.met is met
    words = {None: "", True: "met", False: "MISSED"}
    assert measurement.cells()[3] == words[met]
    assert measurement.as_dict()["met"] is met


def test_figures_are_short() -> None:
    assert [figure(v) for v in (0.01234, 5.678, 42, 99.94, 123.4, 1234567)] == [
        "0.0123", "5.68", "42", "99.9", "123", "1,234,567",
    ]  # fmt: skip


def test_report_forms_agree() -> None:
    report = _report(8, 12)
    assert [m.name for m in report.missed] == ["unit 12"]
    assert "1 of 2 targets met" in report.text()
    page = report.markdown()
    assert "| unit 12 | <= 10 LUT | 12 LUT | MISSED | timed |" in page
    assert json.loads(json.dumps(report.as_dict()))["measurements"][1]["met"] is False
    assert "icarus" not in report.machine, "a tool that is not there has no version"


@pytest.mark.parametrize(
    ("arguments", "values", "code"),
    [([], (12,), 0), (["--check"], (12,), FAILED), (["--check"], (8,), 0)],
)
def test_exit_code_and_files(
    arguments: list[str], values: tuple[float, ...], code: int, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(bench_run, "run_benchmarks", lambda quick: _report(*values))
    out, page = tmp_path / "new" / "bench.json", tmp_path / "performance.md"
    assert run(["bench", *arguments, "-o", str(out), "--markdown", str(page), "--json"]) == code
    assert json.loads(capsys.readouterr().out) == json.loads(out.read_text())
    assert f"unit {values[0]}" in page.read_text()
    assert run(["inspect", str(out)]) == 0


def test_a_page_keeps_everything_but_the_section(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench_run, "run_benchmarks", lambda quick: _report(12))
    page = tmp_path / "performance.md"
    page.write_text(f"# Title\n\n{BEGIN}old figures\n{END}\n## Next\n")
    arguments = ["bench", "-o", str(tmp_path / "bench.json"), "--markdown", str(page)]
    for _ in range(2):
        assert run(arguments) == 0
        text = page.read_text()
        assert text.startswith("# Title\n") and text.endswith("\n## Next\n")
        assert text.count("| unit 12 |") == 1
        assert "old figures" not in text
    page.write_text("# Something else\n")
    assert run(arguments) == BAD_INPUT
    assert "no lines" in capsys.readouterr().err
    assert page.read_text() == "# Something else\n"


def test_a_failed_synthesis_is_one_line_and_exit_code_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise SynthesisError("Yosys ended with status 1 for unit:\nthe log")

    monkeypatch.setattr(area, "count_luts_verilog", broken)
    (line,) = measure(cases()[0])
    assert line.value is None
    assert line.detail == {"error": "Yosys ended with status 1 for unit:"}
    report = BenchmarkReport((line,), machine({}), quick=True, seconds=1.0)
    monkeypatch.setattr(bench_run, "run_benchmarks", lambda quick: report)
    assert run(["bench", "-o", str(tmp_path / "bench.json")]) == FAILED
    assert "not measured" in capsys.readouterr().out


def test_area_list_is_sound() -> None:
    titles = [case.title for case in cases()]
    assert len(set(titles)) == len(titles)
    assert any(case.quick for case in cases())
    assert sum(case.target is not None for case in cases()) >= 4


@pytest.mark.parametrize("case", [c for c in cases() if c.lanes is None], ids=lambda c: c.title)
def test_every_small_unit_on_the_list_elaborates(case: AreaCase) -> None:
    assert "module" in rtlil.convert(case.make())


@pytest.mark.yosys
def test_a_lane_is_really_counted() -> None:
    """The plain E2M1 product is eight functions of six inputs: eight LUT6 and one level."""
    (case,) = (c for c in cases() if c.title == "product E2M1 x E2M1, plain")
    luts, levels = measure(case)
    assert (luts.value, luts.met, levels.value) == (8, True, 1)
