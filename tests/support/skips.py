# SPDX-License-Identifier: Apache-2.0
"""Skips that a run expects; any other one fails it.

LUTVAR_SKIPS names a list of the expected ones (`.ci/skips.txt`). A skip for a program is expected
where that program is missing, and said; the run stays green, for it is the machine that lacks it.
"""

from __future__ import annotations

import os
import re
import shutil
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest


@dataclass(frozen=True)
class Rule:
    """A reason that is expected.

    Attributes:
        program: only where it is missing; "-": everywhere.
        reason: a regular expression for the whole reason.
    """

    program: str
    reason: str

    @property
    def applies(self) -> bool:
        return self.program == "-" or shutil.which(self.program) is None


def rules(text: str) -> list[Rule]:
    """The list's lines, "PROGRAM REASON"; ValueError for another one."""
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip() and not line.startswith("#"):
            program, _, reason = line.partition(" ")
            if not reason.strip():
                raise ValueError(f"line {number}: {line!r}; write a program or -, then a reason")
            found.append(Rule(program, reason.strip()))
    return found


class Skips:
    """Counts skips by reason, and ends a run with exit status 1 for those not expected."""

    def __init__(self, expected: Iterable[Rule]) -> None:
        self.expected = list(expected)
        self.reasons: Counter[str] = Counter()

    def _note(self, report: Any) -> None:
        if report.skipped and not hasattr(report, "wasxfail"):
            text = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
            self.reasons[str(text).removeprefix("Skipped: ")] += 1

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._note(report)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        self._note(report)

    def rule(self, reason: str) -> Rule | None:
        """The rule that expects this reason here."""
        for rule in self.expected:
            if rule.applies and re.fullmatch(rule.reason, reason):
                return rule
        return None

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        for reason, count in self.reasons.items():
            rule = self.rule(reason)
            if rule is None:
                terminalreporter.write_line(f"UNEXPECTED SKIP of {count}: {reason}", red=True)
            elif rule.program != "-":
                terminalreporter.write_line(
                    f"note: {count} tests did not run, {rule.program} is missing here: {reason}"
                )

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if session.exitstatus == 0 and any(self.rule(r) is None for r in self.reasons):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_configure(config: pytest.Config) -> None:
    """Watch where LUTVAR_SKIPS asks for it; reports of workers arrive at the main process."""
    path = os.environ.get("LUTVAR_SKIPS")
    if path and "PYTEST_XDIST_WORKER" not in os.environ:
        config.pluginmanager.register(Skips(rules(Path(path).read_text(encoding="utf-8"))))
