# SPDX-License-Identifier: Apache-2.0
"""What a check is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lutvar.sim.fuzz.bench import Bench
from lutvar.sim.fuzz.case import Step
from lutvar.sim.fuzz.oracle import Oracle


@dataclass(frozen=True)
class Check:
    """What returns the first thing that is wrong, "" when nothing is.

    Attributes:
        name: for people and reports.
        run: the check.
        control: it asks what other checks do not ask of arithmetic, and is left out there.
    """

    name: str
    run: Callable[[Bench, Oracle], str]
    control: bool = False


def run_steps(bench: Bench, oracle: Oracle, steps: Sequence[Step]) -> str:
    """Run steps one after the other; the first thing that is wrong."""
    for at, step in enumerate(steps):
        deviation = oracle.judge(step, bench.run(step), at)
        if deviation is not None:
            return f"{deviation.kind}: {deviation.what}"
    return ""


def steps_check(name: str, steps: Sequence[Step], *, control: bool = False) -> Check:
    """Steps whose outcome the oracle judges."""
    return Check(name, lambda bench, oracle: run_steps(bench, oracle, steps), control)
