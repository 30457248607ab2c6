# SPDX-License-Identifier: Apache-2.0
"""All measurements of `lutvar bench`, one after the other."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from lutvar.progress import progress_bar
from lutvar.sim.tools import versions

from .report import BenchmarkReport, Measurement, Step, machine

WHOLE = "vck190-fp4"  #: the configuration whose units and export are measured
_SYNTHESES = 2  #: syntheses at the same time; each takes one core and some 500 MiB


def run_benchmarks(quick: bool = False) -> BenchmarkReport:
    """Measure speed, then area; a tool that is missing makes lines without a value.

    Takes minutes: see the report's `seconds`.

    Args:
        quick: small syntheses only, simulation from the cache.
    """
    tools = {tool.name: tool for tool in versions()}
    speed = _speed(quick, tools["verilator"].ok, tools["yosys"].ok)
    area = _area(quick, tools["yosys"].ok)
    here = machine({name: tool.found for name, tool in tools.items()})
    started = time.monotonic()
    measurements: list[Measurement] = []
    with progress_bar("bench", len(speed) + len(area)) as bar:
        for name, measure in speed:  # timed: nothing may run beside
            bar.set_description(name)
            measurements += measure()
            bar.update()
        with ThreadPoolExecutor(_SYNTHESES) as pool:
            jobs = [(name, pool.submit(measure)) for name, measure in area]
            try:
                for name, job in jobs:
                    bar.set_description(name)
                    measurements += job.result()
                    bar.update()
            finally:
                pool.shutdown(cancel_futures=True)
    return BenchmarkReport(tuple(measurements), here, quick, time.monotonic() - started)


def _speed(quick: bool, verilator: bool, yosys: bool) -> list[Step]:
    from .elaborate import elaboration
    from .forward import forward_speed
    from .host import host_speed
    from .methods import quantize_speed
    from .packing import packing_speed
    from .speed import golden_speed, simulation_speed

    # The golden model comes first: the peak of its memory is not hidden under that of a build.
    steps: list[Step] = [("golden model", golden_speed)]
    if not quick:
        steps.append(("host of a large model", host_speed))
        steps.append(("quantized against float32", forward_speed))
        steps.append(("quantization of a large model", quantize_speed))
        steps.append(("packing of a large model", packing_speed))
    if verilator and yosys and not quick:
        steps.append(("elaboration", partial(elaboration, WHOLE)))
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
    from lutvar.contract.accelerator import load_accelerator

    from . import area, array, units

    config = load_accelerator(WHOLE)
    steps: list[Step] = [
        (case.title, partial(units.measure, name, config))
        for name, case in units.UNITS.items()
        if case.small or not quick
    ]
    for module in (area, array):
        cases = [c for c in module.cases() if c.quick or not quick]
        steps += [(c.title, partial(module.measure, c)) for c in cases]
    return steps
