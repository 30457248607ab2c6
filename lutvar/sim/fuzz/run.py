# SPDX-License-Identifier: Apache-2.0
"""The loop of `lutvar fuzz`: steps on a device, each followed by a right program; a report."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lutvar.contract.accelerator import AcceleratorConfig
from lutvar.contract.isa import Opcode
from lutvar.contract.register_map import DeviceError
from lutvar.contract.seeds import check_seed
from lutvar.sim.device import SimulationTimeout

from .bench import Bench
from .case import Case, Step
from .events import Timing, random_event, random_timing
from .malformed import fields_of, get, malform, words_of
from .oracle import Deviation, Oracle
from .outcome import Outcome
from .shrink import shrink
from .wellformed import Generator

SESSION = 40  #: programs on a device before a fresh one takes its place
PROBES = 4  #: right programs that follow the random ones
_LENGTH = 16  #: instructions of a random program at most, about
_SHRINK_SECONDS = 90.0


@dataclass
class Report:
    """What a run did, and what it found.

    Attributes:
        programs: random programs that were run; each was followed by a right one.
        kinds: by kind, well-formed or malformed and with which event.
        ends: how they ended: "done", "stopped", or an error's name.
        fields: instruction fields with more than one value, by opcode.
        deviations: what was found, after shrinking.
        cases: the files of these.
        cycles: simulated.
        seconds: of the run, shrinking included.
    """

    seed: int
    config: str
    programs: int = 0
    cycles: int = 0
    seconds: float = 0.0
    kinds: Counter[str] = field(default_factory=Counter)
    ends: Counter[str] = field(default_factory=Counter)
    values: dict[str, set[int]] = field(default_factory=dict)
    deviations: list[Deviation] = field(default_factory=list)
    cases: list[Path] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "seed": self.seed, "configuration": self.config, "programs": self.programs,
            "cycles": self.cycles, "seconds": round(self.seconds, 1),
            "programs_per_second": round(self.programs / max(self.seconds, 1e-9), 2),
            "kinds": dict(sorted(self.kinds.items())), "ends": dict(sorted(self.ends.items())),
            "field_values": {name: len(values) for name, values in sorted(self.values.items())},
            "deviations": [
                {"kind": d.kind, "what": d.what, "case": str(path)}
                for d, path in zip(self.deviations, self.cases, strict=True)
            ],
        }  # fmt: skip


class Fuzzer:
    """Random programs on one build.

    Args:
        library: the model, see `lutvar.sim.verilator.build`.
        config: what it is.
        seed: of all choices: equal seeds try the same programs in the same order.
        out: folder for cases.
        say: gets a line now and then.

    Raises:
        ValueError: the seed is out of range.
    """

    def __init__(
        self,
        library: Path,
        config: AcceleratorConfig,
        seed: int,
        out: Path,
        say: Callable[[str], None] = lambda _line: None,
    ) -> None:
        check_seed(seed)
        self.library, self.config, self.out, self.say = library, config, out, say
        self.rng = np.random.default_rng(seed)
        self.oracle = Oracle(config)
        self.report = Report(seed, config.name)
        self._probes = [self._probe() for _ in range(PROBES)]

    def run(
        self,
        *,
        seconds: float | None = None,
        programs: int | None = None,
        max_deviations: int = 20,
        progress: Callable[[int], None] = lambda _done: None,
    ) -> Report:
        """Run until time is up or so many programs have run, or too much was found."""
        started = time.monotonic()
        report = self.report

        def over() -> bool:
            late = seconds is not None and time.monotonic() - started >= seconds
            enough = programs is not None and report.programs >= programs
            return late or enough or len(report.deviations) >= max_deviations

        while not over():
            self._session(over, progress)
        report.seconds = time.monotonic() - started
        return report

    def _session(self, over: Callable[[], bool], progress: Callable[[int], None]) -> None:
        """Programs on one device, until there is a deviation or a fresh device is due."""
        steps: list[Step] = []
        with Bench(self.library, self.config) as bench:
            for _ in range(SESSION):
                if over():
                    return
                step = self._step()
                probe = self._probes[int(self.rng.integers(PROBES))]
                for item in (step, probe):
                    steps.append(item)
                    deviation = self._one(bench, item, len(steps) - 1, item is step)
                    if deviation is not None:
                        self._found(deviation, steps)
                        return
                self.report.programs += 1
                progress(self.report.programs)

    def _one(self, bench: Bench, step: Step, at: int, counted: bool) -> Deviation | None:
        try:
            outcome = bench.run(step)
        except SimulationTimeout as error:
            return Deviation("hang", at, str(error))
        self.report.cycles += outcome.cycles
        if counted:
            self._count(step, outcome)
        return self.oracle.judge(step, outcome, at)

    def _count(self, step: Step, outcome: Outcome) -> None:
        kind = "well-formed" if step.right else "malformed"
        event = f", {step.event.kind}" if step.event else ""
        self.report.kinds[kind + event] += 1
        end = "stopped" if outcome.stopped else "done"
        if outcome.error:
            end = DeviceError(outcome.error).name if outcome.error in _CODES else "unknown error"
        self.report.ends[end] += 1
        for word in words_of(step.program)[1:]:
            fields = fields_of(word)
            opcode = get(word, fields[0])
            name = Opcode(opcode).name if opcode in _OPCODES else "unknown"
            for item in fields:
                values = self.report.values.setdefault(f"{name}.{item.name}", set())
                if len(values) < 1000:
                    values.add(get(word, item))

    def _found(self, deviation: Deviation, steps: list[Step]) -> None:
        self.say(f"program {self.report.programs + 1}: {deviation.kind}: {deviation.what}")
        case = Case(self.config, tuple(steps), self.report.seed, deviation.what)
        small, last = shrink(self.library, case, deviation, self.oracle, _SHRINK_SECONDS)
        number = len(self.report.cases) + 1
        path = self.out / f"{self.config.name}-{self.report.seed}-{number}.json"
        small.write(path)
        self.report.deviations.append(last)
        self.report.cases.append(path)
        count = sum(len(words_of(step.program)) - 1 for step in small.steps)
        self.say(f"  {len(small.steps)} programs with {count} instructions: {path}")

    # Steps -----------------------------------------------------------------------------------
    def _probe(self) -> Step:
        made = Generator(self.config, self.rng, small=True).make(6)
        return Step(made.program.encode(), True, made.fills, Timing(seed=1))

    def _step(self) -> Step:
        rng = self.rng
        made = Generator(self.config, rng, small=bool(rng.integers(2))).make(
            int(rng.integers(1, _LENGTH))
        )
        raw, right = made.program.encode(), True
        if rng.integers(5) < 3:
            raw, right = malform(rng, raw), False
        event = None
        if rng.integers(3 if right else 8) == 0:
            event = random_event(rng, self.config)
        return Step(raw, right, made.fills, random_timing(rng, self.config), event)


_CODES: Mapping[int, DeviceError] = {int(code): code for code in DeviceError}
_OPCODES = {int(op) for op in Opcode}
