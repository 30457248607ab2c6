# SPDX-License-Identifier: Apache-2.0
"""Several processes of one exploration on this machine, each with the storage open."""

from __future__ import annotations

import multiprocessing
import signal
import sys
from collections.abc import Callable, Mapping, Sequence

from .space import ExploreError, Value
from .study import Exploration
from .trial import Task

#: Seconds between two looks at the storage.
_POLL = 0.5


def explore(
    exploration: Exploration, trials: int, jobs: int, *,
    first: Sequence[Mapping[str, Value]] = (),
    on_done: Callable[[int, int], None] | None = None,
) -> None:  # fmt: skip
    """Run until the storage has so many trials.

    Args:
        jobs: processes. With one, the same seed on an empty storage makes the same trials.
        first: candidates to try first.
        on_done: called with trials that are done and all, now and then.

    Raises:
        ExploreError: a process failed; it has said why on standard error.
    """
    total = min(trials, exploration.task.space.size)

    def report(current: Exploration) -> None:
        if on_done is not None:
            on_done(min(current.trials, total), total)

    report(exploration)
    if jobs <= 1:
        exploration.run(trials, 0, first=first, on_trial=report)
        return
    context = multiprocessing.get_context("spawn")
    workers = [
        context.Process(
            target=_work,
            args=(exploration.task, exploration.storage, exploration.seed, trials, number, first),
        )
        for number in range(jobs)
    ]  # fmt: skip
    try:
        for worker in workers:
            worker.start()
        while any(worker.is_alive() for worker in workers):
            for worker in workers:
                worker.join(_POLL / jobs)
            report(exploration)
    finally:
        for worker in workers:
            if worker.is_alive():
                worker.terminate()
                worker.join()
    if any(worker.exitcode for worker in workers):
        raise ExploreError(
            "a process of the search failed, its message is above; what others tried is in storage "
            f"{exploration.storage}, and the same command goes on from it"
        )


def _work(
    task: Task, storage: str, seed: int, trials: int, number: int,
    first: Sequence[Mapping[str, Value]],
) -> None:  # fmt: skip
    # Ctrl-C reaches all of the group; the parent alone answers it, and ends the others.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        Exploration(task, storage, seed).run(trials, number, first=first)
    except ExploreError as error:
        sys.exit(f"process {number}: {error}")
