# SPDX-License-Identifier: Apache-2.0
"""What a step must do, and whether it did."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lutvar.contract.accelerator import AcceleratorConfig
from lutvar.contract.isa import UNITS, Opcode, ProgramError, Region
from lutvar.contract.register_map import DeviceError, ReadRule
from lutvar.host.compile.check import check_program
from lutvar.host.compile.errors import OrderError
from lutvar.host.compile.program import Program
from lutvar.sim.device import SimulationTimeout
from lutvar.sim.interpret import Machine

from .bench import Bench
from .case import Case, Step
from .contents import BASES, PROGRAM_OFFSET, SIZES, regions
from .events import WATCHDOG
from .malformed import LENGTH, get, words_of
from .outcome import Bytes, Outcome
from .rules import misfit, refusal, stray

_OUTSIDE = [code for code in DeviceError if code.name.startswith("OUTSIDE_")]


@dataclass(frozen=True)
class Deviation:
    """A step that did what it must not.

    Attributes:
        kind: "memory", "error", "hang", "guard", "refusal" or "rule".
        at: index of the step.
        what: for people.
    """

    kind: str
    at: int
    what: str


@dataclass(frozen=True)
class Expected:
    """What a right program leaves: contents of the regions, completed instructions."""

    memory: dict[Region, Bytes]
    counts: tuple[int, ...]


class Unpredictable(ValueError):
    """A program whose result no rule determines."""


class Oracle:
    """Knows what right programs leave. Results of the latest `keep` programs are kept."""

    def __init__(self, config: AcceleratorConfig, keep: int = 64) -> None:
        self.config, self.keep = config, keep
        self._known: OrderedDict[tuple[object, ...], Expected] = OrderedDict()

    def expected(self, step: Step) -> Expected:
        """Run the program on the golden functions. Raises Unpredictable."""
        key = (step.program, step.fills)
        if key in self._known:
            self._known.move_to_end(key)
            return self._known[key]
        try:
            program = Program.decode(step.program).exact()
            check_program(program, self.config)
            machine = Machine(self.config, SIZES)
            for region, content in regions(self.config, step.fills).items():
                machine.memory[region][:] = content
            raw = np.frombuffer(step.program, np.uint8)
            machine.memory[Region.IO][PROGRAM_OFFSET : PROGRAM_OFFSET + len(raw)] = raw
            # Without a fill, as when a case is made smaller, memory holds infinities and NaNs.
            with np.errstate(all="ignore"):
                machine.run(program)
        except (ProgramError, OrderError, IndexError, AssertionError, ValueError) as error:
            raise Unpredictable(str(error)) from error
        opcodes = [item.opcode for item in program.instructions]
        counts = tuple(opcodes.count(Opcode[unit.name]) for unit in UNITS)
        result = Expected(machine.memory, counts)
        self._known[key] = result
        if len(self._known) > self.keep:
            self._known.popitem(last=False)
        return result

    def judge(self, step: Step, outcome: Outcome, at: int) -> Deviation | None:
        """The worst thing that a step did, or None."""
        if outcome.stuck:
            return Deviation("hang", at, "; ".join(outcome.problems))
        if outcome.guard:
            places = ", ".join(f"{address:#x}" for address in outcome.guard)
            return Deviation("guard", at, f"memory outside the regions changed, at {places}")
        if outcome.problems:
            return Deviation("rule", at, "; ".join(outcome.problems))
        if step.event is None and (wrong := self._wrong_refusal(step, outcome)):
            return Deviation("refusal", at, wrong)
        if outcome.stopped or (outcome.error and self._provoked(step, outcome)):
            return None
        if step.right:
            return self._right(step, outcome, at)
        return None

    def _right(self, step: Step, outcome: Outcome, at: int) -> Deviation | None:
        if outcome.error:
            name = _error_name(outcome)
            return Deviation("error", at, f"a right program ended with {name}")
        if outcome.refused is not None:
            return Deviation("error", at, "a refused burst was not reported")
        expected = self.expected(step)
        for region, content in expected.memory.items():
            if not np.array_equal(outcome.memory[region], content):
                wrong = np.flatnonzero(outcome.memory[region] != content)
                first = int(wrong[0])
                return Deviation(
                    "memory", at,
                    f"{wrong.size} bytes of {region.name} differ, the first at {first:#x}: "
                    f"{outcome.memory[region][first]:#x}, {content[first]:#x} is right",
                )  # fmt: skip
        if outcome.counts != expected.counts:
            what = f"units completed {outcome.counts} instructions, {expected.counts} are right"
            return Deviation("rule", at, what)
        return None

    def _wrong_refusal(self, step: Step, outcome: Outcome) -> str:
        """What is wrong with a refusal, or with a program that was not refused."""
        if outcome.stopped:
            return ""
        space = regions(self.config, step.fills)[Region.IO][PROGRAM_OFFSET:].copy()
        raw = np.frombuffer(step.program, np.uint8)
        space[: len(raw)] = raw
        if not np.array_equal(space, outcome.memory[Region.IO][PROGRAM_OFFSET:]):
            return ""  # the program has changed itself
        words = words_of(space.tobytes())
        expected = refusal(self.config, words)
        codes = [DeviceError.BAD_HEADER, DeviceError.BAD_INSTRUCTION]
        # Nobody looks at words behind END, which is the last one that the header counts.
        words = words[: 1 + get(words[0], LENGTH)]
        if expected is None:
            expected = misfit(self.config, words)
            codes += [DeviceError.WEIGHTS_SURPLUS, DeviceError.WEIGHTS_MISSING]
        wrong = outcome.error in codes and (outcome.error, outcome.info) != expected
        if wrong or (expected and outcome.done and not outcome.error):
            said = _error_name(outcome) if outcome.error else "no error"
            right = "no refusal"
            if expected is not None:
                right = f"{expected[0].name} with {expected[1]:#x}"
            return f"{said}; {right} is right"
        where = stray(self.config, words) if expected is None else None
        if outcome.done and not outcome.error and where is not None:
            return f"no error; a transfer touches {where:#x}, which is in no region"
        outside = outcome.error in _OUTSIDE and outcome.error != DeviceError.OUTSIDE_PROG
        if outside and expected is None and where is None:
            return f"{_error_name(outcome)}; all transfers lie in regions"
        return ""

    def _provoked(self, step: Step, outcome: Outcome) -> bool:
        """The error is one that a malformed program or an event may cause."""
        if not step.right:
            return True
        event = step.event
        if event is None:
            return False
        if event.kind == "refuse":
            kind, port = event["port"].split("_")
            code = DeviceError[f"{'READ' if kind == 'r' else 'WRITE'}_{port.upper()}"]
            there = outcome.address == outcome.refused
            return outcome.error == code and there and (kind == "w" or not outcome.info)
        if event.kind == "wrong_last":
            port = event["port"].split("_")[1].upper()
            told = outcome.address
            inside = any(BASES[r] <= told < BASES[r] + SIZES[r] for r in Region)
            wrong = (DeviceError[f"READ_{port}"], ReadRule.LAST)
            return (outcome.error, outcome.info) == wrong and inside
        slow = event.kind == "hold" and event["cycles"] > WATCHDOG
        return slow and outcome.error == DeviceError.WATCHDOG


def _error_name(outcome: Outcome) -> str:
    try:
        name = DeviceError(outcome.error).name
    except ValueError:
        name = f"error {outcome.error}"
    return f"{name}, ERROR_INFO {outcome.info:#x}, ERROR_ADDRESS {outcome.address:#x}"


def run_steps(
    library: Path, config: AcceleratorConfig, oracle: Oracle, steps: Sequence[Step]
) -> Deviation | None:
    """Run steps on a fresh device; the first deviation, or None."""
    with Bench(library, config) as bench:
        for at, step in enumerate(steps):
            try:
                outcome = bench.run(step)
            except SimulationTimeout as error:
                return Deviation("hang", at, str(error))
            if (deviation := oracle.judge(step, outcome, at)) is not None:
                return deviation
    return None


def replay(library: Path, case: Case, oracle: Oracle | None = None) -> Deviation | None:
    """Run a case's steps on a fresh device; the first deviation, or None."""
    return run_steps(library, case.config, oracle or Oracle(case.config), case.steps)
