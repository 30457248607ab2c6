# SPDX-License-Identifier: Apache-2.0
"""Runs mutants on several processes until each is dead or has survived all checks; resumable."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lutvar.contract.accelerator import AcceleratorConfig
from lutvar.files import json_text, write_file
from lutvar.hw.accelerator.export import export
from lutvar.sim.device import SimulationTimeout
from lutvar.sim.fuzz.bench import Bench
from lutvar.sim.fuzz.oracle import Oracle
from lutvar.sim.verilator import build

from .checks import checks
from .common import Check
from .mutants import SELECT, list_mutants, with_mutants
from .units import Units, is_arithmetic

#: Seconds after which a process that runs one mutant is taken for dead, and the mutant too.
DEADLINE = 300.0


@dataclass(frozen=True)
class Verdict:
    """What became of a mutant: the check that noticed it and what it said; "" if none did."""

    number: int
    check: str
    what: str
    seconds: float


#: Check of an arithmetic unit alone; see `units`.
UNIT = "unit alone"


@dataclass(frozen=True)
class _Work:
    """What a process needs to run any mutant; `units` is None when they are not wanted."""

    library: Path
    config: AcceleratorConfig
    checks: Sequence[Check]
    oracle: Oracle
    units: Units | None
    modules: dict[int, str]


def _run_one(work: _Work, number: int) -> Verdict:
    started = time.monotonic()
    check, what = "", ""
    library, config, oracle = work.library, work.config, work.oracle
    arithmetic = is_arithmetic(work.modules.get(number, ""))
    todo = [item for item in work.checks if not (arithmetic and item.control)]
    try:
        with Bench(library, config, plusarg=f"+{SELECT}={number}") as bench:
            for item in todo:
                check = item.name
                if what := item.run(bench, oracle):
                    break
            else:
                check = ""
        if not check and work.units and (what := work.units.run(number)):
            check = UNIT
    except SimulationTimeout as error:
        check, what = check or "start", str(error)
    return Verdict(number, check, what[:300], round(time.monotonic() - started, 2))


def _worker(work: _Work, tasks: Any, results: Any) -> None:
    while (number := tasks.get()) is not None:
        results.put(("begin", number))
        results.put(_run_one(work, number))


class Campaign:
    """Mutants of one configuration in a folder: `mutants.json`, `verdicts.jsonl`, the build.

    Args:
        config: the accelerator.
        out: folder; what is there already is not done again.
        count: number of mutants.
        seed: of their choice.
        say: gets a line for each step.
    """

    def __init__(
        self,
        config: AcceleratorConfig,
        out: Path,
        count: int,
        seed: int,
        say: Callable[[str], None],
        build_dir: Path | str = "build/sim",
    ) -> None:
        self.config, self.out, self.say = config, out, say
        out.mkdir(parents=True, exist_ok=True)
        verilog = export(config, out).verilog
        text = verilog.read_text(encoding="utf-8")
        self.mutants = list_mutants(text, count, seed)
        #: Numbers as they are run: at random, so that a campaign that was cut short is a fair
        #: sample of all modules.
        self.order = [m.number for m in self.mutants]
        random.Random(seed).shuffle(self.order)
        self._lines = text.splitlines()
        mutated = out / f"{config.name}-mutants.v"
        write_file(mutated, with_mutants(text, self.mutants))
        digest = hashlib.sha256(mutated.read_bytes()).hexdigest()[:16]
        self._log = out / f"verdicts-{digest}.jsonl"
        self._mutated = mutated
        self.library = build(mutated, build_dir=build_dir, progress=say)

    def verdicts(self) -> dict[int, Verdict]:
        """What is known so far."""
        return read_verdicts(self._log)

    def _note(self, verdict: Verdict) -> None:
        with self._log.open("a", encoding="utf-8") as file:
            file.write(json_text(vars(verdict)) + "\n")

    def run(
        self,
        jobs: int = 1,
        only: Sequence[int] | None = None,
        names: Sequence[str] = (),
    ) -> dict[int, Verdict]:
        """Run what is not known, or the checks of these names on what has survived.

        Raises ValueError when the original fails a check, or there is none of that name.
        """
        known = self.verdicts()
        numbers = self.order if only is None else list(only)
        if names:
            todo = [n for n in numbers if n in known and not known[n].check]
        else:
            todo = [n for n in numbers if n not in known]
        if not todo:
            return known
        every = checks(self.config)
        if unknown := set(names) - {UNIT, *(item.name for item in every)}:
            raise ValueError(
                f"no check {', '.join(sorted(unknown))}; there are "
                f"{', '.join(item.name for item in every)}, {UNIT}"
            )
        wanted = [item for item in every if not names or item.name in names]
        modules = {m.number: m.module for m in self.mutants}
        units = None
        if not names or UNIT in names:
            some = {number: modules[number] for number in todo}
            units = Units(self._mutated, self.out / "units", some)
        oracle = Oracle(self.config, keep=4096)
        _drop_cut_line(self._log)
        self._work = _Work(self.library, self.config, wanted, oracle, units, modules)
        # The original also makes the oracle learn all results: the processes inherit them.
        original = _run_one(self._work, 0)
        if original.check:
            raise ValueError(f"the original fails check {original.check}: {original.what}")
        self.say(f"the original passes all checks in {original.seconds:.1f} s")
        self._run_all(todo, jobs)
        return self.verdicts()

    def _run_all(self, todo: Sequence[int], jobs: int) -> None:
        context = multiprocessing.get_context("fork")
        waiting, done, total = list(todo), 0, len(todo)
        workers: list[_Process] = []
        try:
            while waiting or any(w.number is not None for w in workers):
                while len(workers) < min(jobs, max(1, total)):
                    workers.append(_Process(context, self._work))
                for worker in list(workers):
                    verdict = worker.poll()
                    if verdict is not None:
                        self._note(verdict)
                        done += 1
                        if done % 20 == 0:
                            self.say(f"{done} of {total} mutants")
                    if worker.dead:
                        workers.remove(worker)
                    elif worker.number is None and waiting:
                        worker.give(waiting.pop(0))
                time.sleep(0.02)
        finally:
            for worker in workers:
                worker.end()

    def report(self) -> dict[str, Any]:
        """Figures and all mutants, as plain data."""
        verdicts = self.verdicts()
        rows = []
        for mutant in self.mutants:
            if (verdict := verdicts.get(mutant.number)) is not None:
                source = self._lines[mutant.line - 1].strip()
                told = {"check": verdict.check, "what": verdict.what, "seconds": verdict.seconds}
                rows.append({**mutant.as_dict(), "source": source, **told})
        killed = sum(bool(row["check"]) for row in rows)
        return {
            "configuration": self.config.name, "mutants": len(rows), "killed": killed,
            "survived": len(rows) - killed,
            "by_check": dict(Counter(str(row["check"]) for row in rows if row["check"])),
            "rows": rows,
        }  # fmt: skip


class _Process:
    """One worker process, and the mutant that it runs."""

    def __init__(self, context: Any, work: _Work) -> None:
        self._tasks, self._results = context.Queue(), context.Queue()
        self._process = context.Process(
            target=_worker, args=(work, self._tasks, self._results), daemon=True
        )
        self._process.start()
        self.number: int | None = None
        self._began = 0.0
        self.dead = False

    def give(self, number: int) -> None:
        self.number, self._began = number, time.monotonic()
        self._tasks.put(number)

    def poll(self) -> Verdict | None:
        """A verdict when there is one; a worker that died or hangs has killed its mutant."""
        if self.number is None:
            return None
        while not self._results.empty():
            item = self._results.get()
            if isinstance(item, Verdict):
                self.number = None
                return item
            self._began = time.monotonic()
        late = time.monotonic() - self._began > DEADLINE
        if late or not self._process.is_alive():
            number, self.number, self.dead = self.number, None, True
            self.end()
            seconds = round(time.monotonic() - self._began, 2)
            what = f"no end after {DEADLINE:.0f} s" if late else "the simulation stopped"
            return Verdict(number, "simulator", what, seconds)
        return None

    def end(self) -> None:
        if self._process.is_alive():
            self._process.terminate()
        self._process.join(5)


def read_verdicts(path: Path) -> dict[int, Verdict]:
    """Verdicts of a file by mutant; none without a file.

    A last line without its end is left out: the campaign was stopped in the midst of it.
    """
    if not path.exists():
        return {}
    lines = path.read_bytes().split(b"\n")[:-1]
    return {row["number"]: Verdict(**row) for row in map(json.loads, lines)}


def _drop_cut_line(path: Path) -> None:
    """Take a last line without its end from a file, so that the next one starts anew."""
    if path.exists():
        whole = path.read_bytes().rfind(b"\n") + 1
        with path.open("ab") as file:
            file.truncate(whole)
