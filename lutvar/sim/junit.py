# SPDX-License-Identifier: Apache-2.0
"""Results of testbenches as JUnit XML, which Jenkins, GitLab and GitHub's reporters read."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone

from .runner import SimulationResult

#: What XML 1.0 cannot hold, not even escaped; logs of simulators have such bytes.
_FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def junit(results: Sequence[SimulationResult], errors: Mapping[str, str] | None = None) -> bytes:
    """An XML document with a test suite for each simulator and a test case for each test.

    Args:
        results: of all simulators.
        errors: by simulator, why it ended without results; each becomes a test case with an
            error.
    """
    errors = errors or {}
    root = ElementTree.Element("testsuites", name="lutvar sim")
    stamp = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S")
    for sim in dict.fromkeys([*(r.sim for r in results), *errors]):
        rows = [r for r in results if r.sim == sim]
        suite = ElementTree.SubElement(root, "testsuite", name=sim, timestamp=stamp)
        for row in rows:
            case = _case(suite, sim, row.bench, row.seconds)
            if not row.passed:
                _problem(case, "failure", row.message or "failed")
        if sim in errors:
            _problem(_case(suite, sim, "build and run", 0.0), "error", errors[sim])
        _count(suite, [suite])
    _count(root, list(root))
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="utf-8", xml_declaration=True) + b"\n"


def _case(suite: ElementTree.Element, sim: str, test: str, seconds: float) -> ElementTree.Element:
    module, dot, name = _clean(test).partition(".")
    return ElementTree.SubElement(
        suite, "testcase", classname=f"{sim}.{module}" if dot else sim, name=name or module,
        time=f"{seconds:.3f}",
    )  # fmt: skip


def _problem(case: ElementTree.Element, kind: str, text: str) -> None:
    text = _clean(text)
    outcome = ElementTree.SubElement(case, kind, message=text.partition("\n")[0], type=kind)
    outcome.text = text


def _count(element: ElementTree.Element, suites: Sequence[ElementTree.Element]) -> None:
    cases = [case for suite in suites for case in suite.iter("testcase")]
    element.set("tests", str(len(cases)))
    for kind in ("failure", "error"):
        element.set(f"{kind}s", str(sum(case.find(kind) is not None for case in cases)))
    element.set("time", f"{sum(float(case.get('time', 0)) for case in cases):.3f}")


def _clean(text: str) -> str:
    return _FORBIDDEN.sub("\ufffd", text)
