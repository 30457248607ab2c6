# SPDX-License-Identifier: Apache-2.0
"""Check of STATE while a program is stuck: which units wait, as the watchdog's ERROR_INFO tells.

A port that never answers stops its unit, then the units that wait for it. What completed by then,
and the waits of the program, say whose next instruction waits for others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from lutvar.contract.accelerator import AcceleratorConfig
from lutvar.contract.isa import UNITS
from lutvar.contract.register_map import BY_NAME, DeviceError
from lutvar.host.compile.program import Program
from lutvar.host.compile.schedule import unit_of
from lutvar.sim.fuzz.bench import Bench
from lutvar.sim.fuzz.case import Step
from lutvar.sim.fuzz.events import WATCHDOG, Event, Timing, directions
from lutvar.sim.fuzz.oracle import Oracle
from lutvar.sim.fuzz.wellformed import Generator

_PROGRAMS = 2  #: for each port; none is longer than the queues


def stuck_steps(config: AcceleratorConfig, seed: int) -> list[Step]:
    """Programs in which one port after the other never answers, each followed by a right one."""
    rng = np.random.default_rng(seed)
    steps: list[Step] = []
    for port in directions(config):
        if port == "r_prog":
            continue  # then there is no program
        for _ in range(_PROGRAMS):
            made = Generator(config, rng, small=True).make(10)
            event = Event("hold", {"port": port, "cycle": 1, "cycles": 2 * WATCHDOG})
            program = made.program.encode()
            steps += [Step(program, True, made.fills, Timing(), event),
                      Step(program, True, made.fills)]  # fmt: skip
    return steps


def wrong_state(step: Step, counts: Sequence[int], state: int, queue: int) -> str:
    """What a value of STATE says wrongly about a program that is stuck, "" if nothing.

    Args:
        step: the program.
        counts: instructions that each unit has completed.
        state: ERROR_INFO of the watchdog.
        queue: instructions that a unit's queue holds.
    """
    items = Program.decode(step.program).instructions[:-1]
    for unit in UNITS:
        own = [item for item in items if unit_of(item.opcode) is unit]
        left = own[counts[unit] :]
        if len(own) > queue:
            continue  # not all of them are dispatched
        unmet = bool(left) and any(
            done < wait for done, wait in zip(counts, left[0].waits, strict=True)
        )
        expected = {"incomplete": int(bool(left))}
        if not left or unmet:
            expected |= {"empty": int(not left), "waits": int(unmet), "busy": 0}
        for name, value in expected.items():
            field = f"{name}_{unit.name.lower()}"
            if BY_NAME["STATE"].field_value(state, field) != value:
                return f"STATE.{field} is {1 - value} while {unit.name} has completed " + (
                    f"{counts[unit]} of {len(own)} instructions"
                )
    return ""


def states(steps: Sequence[Step]) -> Callable[[Bench, Oracle], str]:
    """The check."""

    def run(bench: Bench, oracle: Oracle) -> str:
        for at, step in enumerate(steps):
            outcome = bench.run(step)
            if (deviation := oracle.judge(step, outcome, at)) is not None:
                return f"{deviation.kind}: {deviation.what}"
            if outcome.error != DeviceError.WATCHDOG:
                continue
            queue = bench.config.queue
            if what := wrong_state(step, outcome.counts, outcome.info, queue):
                return what
        return ""

    return run
