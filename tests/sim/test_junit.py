# SPDX-License-Identifier: Apache-2.0
"""`lutvar sim --junit`: XML in the form that CI systems read."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from lutvar.cli.errors import FAILED
from lutvar.cli.main import run
from lutvar.sim import runner
from lutvar.sim.junit import junit
from lutvar.sim.runner import RunError, SimulationResult

#: Elements of the JUnit schema (junit-10.xsd of Jenkins' xUnit plug-in) that we use: required
#: attributes, other attributes, children.
SCHEMA = {
    "testsuites": ({"name", "tests", "failures", "errors", "time"}, set(), {"testsuite"}),
    "testsuite": (
        {"name", "tests", "failures", "errors", "time"}, {"timestamp"}, {"testcase"},
    ),
    "testcase": ({"name", "classname", "time"}, set(), {"failure", "error"}),
    "failure": ({"message", "type"}, set(), set()),
    "error": ({"message", "type"}, set(), set()),
}  # fmt: skip


def _check(element: ElementTree.Element) -> None:
    required, others, children = SCHEMA[element.tag]
    assert required <= set(element.attrib) <= required | others
    for key, value in element.attrib.items():
        if key in ("tests", "failures", "errors"):
            kind = {"tests": "testcase"}.get(key, key[:-1])
            assert int(value) == len(list(element.iter(kind)))
        elif key == "time":
            assert re.fullmatch(r"\d+\.\d{3}", value)
        elif key == "timestamp":
            assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d", value)
    for child in element:
        assert child.tag in children, f"{child.tag} in {element.tag}"
        _check(child)


def test_document_obeys_the_schema() -> None:
    rows = [
        SimulationResult("verilator", "registers.reset_values", True, 1.25),
        SimulationResult("verilator", "errors.refuse/p=0.5", False, 2.0, "y differs\nsecond line"),
        SimulationResult("icarus", "lonely", True, 0.0),
    ]
    root = ElementTree.fromstring(junit(rows, {"icarus": "could not build: <log> & 'more'"}))
    _check(root)
    assert root.get("tests") == "4" and root.get("time") == "3.250"
    assert [(s.get("name"), s.get("tests")) for s in root] == [("verilator", "2"), ("icarus", "2")]
    cases = [(c.get("classname"), c.get("name")) for c in root.iter("testcase")]
    assert cases == [
        ("verilator.registers", "reset_values"),
        ("verilator.errors", "refuse/p=0.5"),
        ("icarus", "lonely"),
        ("icarus", "build and run"),
    ]
    (failure,) = root.iter("failure")
    assert failure.get("message") == "y differs" and failure.text == "y differs\nsecond line"
    (error,) = root.iter("error")
    assert error.text == "could not build: <log> & 'more'"


def test_nothing_run_is_a_document_too() -> None:
    root = ElementTree.fromstring(junit([]))
    _check(root)
    assert (root.get("tests"), len(root)) == ("0", 0)


def test_bytes_that_xml_cannot_hold_are_replaced() -> None:
    message = "\x1b[31mred\x00 \udc80 \ufffe ok"
    root = ElementTree.fromstring(junit([SimulationResult("icarus", "a.b", False, 0.0, message)]))
    (failure,) = root.iter("failure")
    assert failure.text == "\ufffd[31mred\ufffd \ufffd \ufffd ok"


@pytest.mark.parametrize("passed", [True, False])
def test_the_command_writes_it(
    passed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_testbenches(sim: str, config: str | None, **_: object) -> list[SimulationResult]:
        return [SimulationResult(sim, "registers.one", passed, 1.0, "" if passed else "y differs")]

    monkeypatch.setattr(runner, "run_testbenches", run_testbenches)
    path = tmp_path / "new" / "junit.xml"
    code = run(["sim", "--sim", "verilator", "--junit", str(path), "-o", str(tmp_path)])
    assert code == (0 if passed else FAILED)
    root = ElementTree.parse(path).getroot()
    _check(root)
    assert root.get("failures") == ("0" if passed else "1")


def test_a_simulator_that_cannot_run_is_an_error_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run_testbenches(sim: str, config: str | None, **_: object) -> list[SimulationResult]:
        if sim == "icarus":
            raise RunError("icarus could not build x.v: it wrote no log")
        return [SimulationResult(sim, "registers.one", True, 1.0)]

    monkeypatch.setattr(runner, "run_testbenches", run_testbenches)
    path = tmp_path / "junit.xml"
    asked = ["sim", "--sim", "verilator", "--sim", "icarus", "--junit", str(path)]
    assert run([*asked, "-o", str(tmp_path)]) == FAILED
    assert "icarus could not build" in capsys.readouterr().err
    root = ElementTree.parse(path).getroot()
    _check(root)
    assert (root.get("tests"), root.get("errors")) == ("2", "1")
