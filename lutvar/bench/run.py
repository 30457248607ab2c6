# SPDX-License-Identifier: Apache-2.0
"""All measurements of `lutvar bench`, one after the other."""

from __future__ import annotations

import time
from functools import partial

from tqdm import tqdm

from lutvar.sim.tools import versions

from .report import BenchReport, Measurement, Step, machine


def run_bench(quick: bool = False, progress: bool = True) -> BenchReport:
    """Measure speed, then area; a tool that is missing makes lines without a value.

    Takes minutes: see the report's `seconds`.

    Args:
        quick: small syntheses only, simulation from the cache.
        progress: say on standard error what is being measured.
    """
    tools = {tool.name: tool for tool in versions()}
    steps = [*_speed(quick, tools["verilator"].ok), *_area(quick, tools["yosys"].ok)]
    started = time.monotonic()
    found: list[Measurement] = []
    with tqdm(steps, disable=not progress, unit="step") as bar:
        for name, measure in bar:
            bar.set_description(name)
            found += measure()
    here = machine({name: tool.found for name, tool in tools.items()})
    return BenchReport(tuple(found), here, quick, time.monotonic() - started)


def _speed(quick: bool, verilator: bool) -> list[Step]:
    from .speed import golden_speed, simulation_speed

    # The golden model comes first: the peak of its memory is not hidden under that of a build.
    steps: list[Step] = [("golden model", golden_speed)]
    if not verilator:
        missing = Measurement(
            "simulation", None, "cycles/s", "timed", detail={"reason": "Verilator is missing"}
        )
        return [*steps, ("simulation", lambda: [missing])]
    return [*steps, ("simulation", partial(simulation_speed, fresh=not quick))]


def _area(quick: bool, yosys: bool) -> list[Step]:
    if not yosys:
        missing = Measurement(
            "area", None, "LUT", "synthesised (Yosys xcup)", detail={"reason": "Yosys is missing"}
        )
        return [("area", lambda: [missing])]
    from .area import cases, measure

    return [(c.title, partial(measure, c)) for c in cases() if c.quick or not quick]
