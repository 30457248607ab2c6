# SPDX-License-Identifier: Apache-2.0
"""Runs proofs in processes, keeps logs and results, and takes up where a run was stopped."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path

from lutvar.files import json_text, make_folder, write_file

from .flow import ProofError, Verdict, decide, engine_tools
from .harness import build
from .mutants import applied
from .proofs import PROPERTIES
from .property import Property
from .selects import accelerator_verilog, decide_selects


class FormalError(ValueError):
    """A property or mutant that does not exist."""


@dataclass(frozen=True)
class Result:
    """What came of a property, or of a mutant of it.

    Attributes:
        name: of the property.
        mutant: name of the mutant, or "".
        status: `proved`, `broken`, `open`, `time-out` or `error`.
        engine: what decided it.
        depth: cycles of induction, or of the counterexample.
        seconds: that it took, export included.
        trace: path of a counterexample as VCD, or "".
        detail: one line for people.
        requirements: how many conditions.
        lemmas: how many of the proof's own facts.
    """

    name: str
    mutant: str
    status: str
    engine: str
    depth: int
    seconds: float
    trace: str = ""
    detail: str = ""
    requirements: int = 0
    lemmas: int = 0

    def as_dict(self) -> dict[str, object]:
        """Plain data for JSON."""
        return {**asdict(self), "ok": self.ok}

    @property
    def title(self) -> str:
        """Property, and mutant if it is one."""
        return f"{self.name} with {self.mutant}" if self.mutant else self.name

    @property
    def ok(self) -> bool:
        """Proved; a mutant: broken by a counterexample."""
        return self.status == ("broken" if self.mutant else "proved")

    @property
    def reach(self) -> str:
        """How far the statement holds."""
        if self.status != "proved":
            return self.status
        return f"unbounded, k = {self.depth}" if self.depth else "unbounded"


def choose(names: Sequence[str]) -> list[Property]:
    """Properties by name, or by group (`queue`); none given: all.

    Raises FormalError for a name that is neither.
    """
    if not names:
        return list(PROPERTIES.values())
    chosen: dict[str, Property] = {}
    for name in names:
        group = {k: p for k, p in PROPERTIES.items() if k == name or k.startswith(f"{name}.")}
        if not group:
            raise FormalError(
                f"there is no property {name!r}; `lutvar formal --list` shows all "
                f"{len(PROPERTIES)} of them"
            )
        chosen |= group
    return list(chosen.values())


def prove(name: str, mutant: str, folder: Path, seconds: float | None = None) -> Result:
    """Attempt one proof in a folder of its own; a result that is there and still applies is taken.

    Args:
        mutant: name of a mutant of the property, or "".
        seconds: time limit in place of the property's own.
    """
    item = PROPERTIES[name]
    started = time.monotonic()
    folder = folder / (f"{name}.{mutant}" if mutant else name)
    make_folder(folder)
    limit = seconds or item.seconds

    def result(status: str, engine: str, depth: int, **more: object) -> Result:
        passed = round(time.monotonic() - started, 1)
        return Result(name, mutant, status, engine, depth, passed, **more)  # type: ignore[arg-type]

    def kept_result(key: str) -> Result | None:
        if (folder / "result.json").exists():
            old = json.loads((folder / "result.json").read_text(encoding="utf-8"))
            if old.pop("key") == key and old["status"] in ("proved", "broken"):
                return Result(**old)
        return None

    def attempt(verdict: Verdict, key: str, requirements: int, lemmas: int) -> Result:
        outcome = result(
            verdict.status, verdict.engine, verdict.depth, trace=str(verdict.trace or ""),
            detail=verdict.detail, requirements=requirements, lemmas=lemmas,
        )  # fmt: skip
        text = json_text({**asdict(outcome), "key": key}, indent=2)
        write_file(folder / "result.json", text + "\n")
        return outcome

    try:
        if item.check is None:
            verilog = accelerator_verilog(item.whole)
            key = hashlib.sha256(verilog.encode()).hexdigest()
            if old := kept_result(key):
                return old
            verdict, count = decide_selects(verilog, folder, limit)
            return attempt(verdict, key, count, 0)
        changes = {m.name: m for m in item.mutants}
        with applied(changes[mutant]) if mutant else nullcontext():
            design = build(item.make, item.check)
        key = hashlib.sha256(repr((design, item.depth)).encode()).hexdigest()
        if old := kept_result(key):
            return old
        verdict = decide(design, folder, depth=item.depth, seconds=limit)
        return attempt(verdict, key, len(design.requirements), len(design.lemmas))
    except (ProofError, ValueError) as error:
        return result("error", "", 0, detail=str(error).strip().splitlines()[0])


def prove_all(
    items: Iterable[Property], *, mutants: bool, folder: Path, jobs: int = 1,
    seconds: float | None = None, on_done: Callable[[Result], None] = lambda _: None,
) -> list[Result]:  # fmt: skip
    """Attempt proofs in several processes; results in the order of the properties.

    Args:
        mutants: attempt the mutants, not the properties themselves.
        folder: for a folder of each attempt.
        jobs: processes.
        seconds: time limit of each in place of its own.
        on_done: called with each result as it comes.

    Raises:
        ToolError: Yosys or the engine is missing.
    """
    engine_tools()
    work = [
        (item.name, name)
        for item in items
        for name in ([m.name for m in item.mutants] if mutants else [""])
    ]
    results: dict[tuple[str, str], Result] = {}
    for key, result in _each(work, folder, jobs, seconds):
        results[key] = result
        on_done(result)
    return [results[key] for key in work]


def _each(
    work: Sequence[tuple[str, str]], folder: Path, jobs: int, seconds: float | None
) -> Iterator[tuple[tuple[str, str], Result]]:
    if jobs == 1 or len(work) < 2:
        for key in work:
            yield key, prove(*key, folder, seconds)
        return
    # Fresh processes: a fork of one with threads may hang.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context) as pool:
        futures = {pool.submit(prove, *key, folder, seconds): key for key in work}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
