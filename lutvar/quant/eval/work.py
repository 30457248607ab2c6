# SPDX-License-Identifier: Apache-2.0
"""Who makes which chunks: one process, several on this machine, or several started by torchrun.

Chunk c belongs to worker c modulo the number of workers. Workers share nothing but the folder,
which on several machines must be on a file system that all of them see. Each computes on one
thread: results then do not depend on how many there are.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from lutvar.environment import cores

from .chunk import chunks_of, make_chunk
from .settings import SampleSettings
from .store import ChunkStore, read_chunk
from .subject import Subject, SubjectName, load_subject, model_fingerprint
from .threads import single_thread

#: Seconds between two looks at the folder.
_POLL = 0.2
#: Chunks that make another process worth its start.
_CHUNKS_PER_JOB = 4

Progress = Callable[[int, int], None]


class WorkError(RuntimeError):
    """A worker that failed, or others that did not deliver in time."""


@dataclass(frozen=True)
class Share:
    """Which part of the work this process has: worker `index` of `of`."""

    index: int = 0
    of: int = 1

    @classmethod
    def of_torchrun(cls, environment: Mapping[str, str] = os.environ) -> Share:
        """From the variables RANK and WORLD_SIZE that torchrun sets; all of it without them.

        Raises:
            ValueError: a rank that is not below the number of ranks.
        """
        share = cls(int(environment.get("RANK", 0)), int(environment.get("WORLD_SIZE", 1)))
        if not 0 <= share.index < share.of:
            raise ValueError(
                f"RANK = {share.index}, WORLD_SIZE = {share.of}: the rank must be from 0 to the "
                "size less one; start with torchrun, or unset both"
            )
        return share


@dataclass(frozen=True)
class Task:
    """What is to be sampled.

    Attributes:
        judged: with features, or tokens and images only.
        given: folder of the given images of an editing task, which must be complete.
    """

    name: SubjectName
    settings: SampleSettings
    seed: int
    samples: int
    folder: Path
    device: str = "cpu"
    judged: bool = True
    given: Path | None = None

    def store(self, subject: Subject) -> ChunkStore:
        """The task's folder. Raises StoreError when it holds something else."""
        run: dict[str, Any] = {
            "model": model_fingerprint(subject.model),
            "method": subject.fingerprint,
            "seed": self.seed,
            "settings": self.settings.as_dict(),
            "device": torch.device(self.device).type,
        }
        return ChunkStore(self.folder, run)

    @property
    def chunks(self) -> range:
        """Numbers of the chunks of the task."""
        return chunks_of(self.samples, self.settings)


def sample(
    task: Task,
    subject: Subject,
    jobs: int | None = None,
    share: Share | None = None,
    wait: float = 3600.0,
    progress: Progress | None = None,
) -> ChunkStore:
    """Make the chunks of a task that are missing, at least those of this process's share.

    Args:
        task: what to make.
        subject: the task's subject, loaded.
        jobs: processes to start here; None starts one per processor if there is enough to do.
        share: part of this process among those that torchrun started.
        wait: how many seconds rank 0 waits for a new chunk of another rank.
        progress: called as progress(images there, images).

    Returns:
        The folder. It is complete for rank 0; the others return when their own part is.

    Raises:
        StoreError: the folder belongs to another run.
        WorkError: a started process failed, or nothing new came for `wait` seconds.
        KeyboardInterrupt: Ctrl-C; finished chunks stay and are used the next time.
    """
    share = Share() if share is None else share
    store = task.store(subject)

    def tick() -> None:
        if progress is not None:
            there = len(task.chunks) - len(store.missing(task.chunks))
            progress(min(there * task.settings.chunk, task.samples), task.samples)

    tick()
    chunks = store.missing(task.chunks[share.index :: share.of])
    if jobs is None:
        jobs = min(cores(), 1 + len(chunks) // _CHUNKS_PER_JOB) if share.of == 1 else 1
    if jobs <= 1:
        _make(task, store, subject, chunks, tick)
    elif chunks:
        _start_jobs(task, jobs, share, tick)
    if share.index == 0:
        _await_all(task, store, share, wait, tick)
    return store


def _make(
    task: Task,
    store: ChunkStore,
    subject: Subject,
    chunks: Sequence[int],
    tick: Callable[[], None],
) -> None:
    judge = subject.model.classifier().to(task.device) if task.judged else None
    with single_thread():
        for chunk in chunks:
            given_NL = None
            if task.given is not None:
                given_NL = read_chunk(task.given, chunk)["tokens"]
            made = make_chunk(subject, judge, task.settings, task.seed, chunk, given_NL)
            store.write(chunk, made)
            tick()


def _await_all(
    task: Task, store: ChunkStore, share: Share, wait: float, tick: Callable[[], None]
) -> None:
    missing = store.missing(task.chunks)
    deadline = time.monotonic() + wait
    while missing:
        if time.monotonic() > deadline:
            ranks = sorted({c % share.of for c in missing})
            raise WorkError(
                f"{task.folder}: {len(missing)} of {len(task.chunks)} chunks are missing and no "
                f"new one came for {wait:g} s (ranks {', '.join(map(str, ranks))}); see what "
                "stopped them and run again, with any number of processes"
            )
        time.sleep(_POLL)
        left = store.missing(missing)
        if len(left) < len(missing):
            missing, deadline = left, time.monotonic() + wait
            tick()


def _start_jobs(task: Task, jobs: int, share: Share, tick: Callable[[], None]) -> None:
    """Run the share of this process in `jobs` new ones; ends all of them when one fails."""
    context = multiprocessing.get_context("spawn")
    running: list[tuple[Any, Connection]] = []
    try:
        for job in range(jobs):
            receive, send = context.Pipe(duplex=False)
            part = Share(share.index + share.of * job, share.of * jobs)
            process = context.Process(target=_job, args=(task, part, send), daemon=True)
            process.start()
            send.close()
            running.append((process, receive))
        while running:
            for entry in list(running):
                process, receive = entry
                process.join(_POLL / len(running))
                if process.exitcode is None:
                    continue
                if process.exitcode != 0:
                    raise WorkError(
                        f"a sampling process ended with code {process.exitcode}{_last(receive)}"
                    )
                running.remove(entry)
            tick()
    finally:
        for process, _ in running:
            process.terminate()
        for process, receive in running:
            process.join()
            receive.close()


def _last(receive: Connection) -> str:
    """What a process said before it ended, as the end of a sentence."""
    try:
        return f": {receive.recv()}"
    except EOFError:
        return ""


def _job(task: Task, part: Share, send: Connection) -> None:
    """A process: makes the chunks of its part."""
    # Ctrl-C reaches all processes; the first one decides and ends the others, between two writes.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(1))
    try:
        subject = load_subject(task.name, task.device)
        store = task.store(subject)
        chunks = store.missing(task.chunks[part.index :: part.of])
        _make(task, store, subject, chunks, lambda: None)
    except Exception as error:
        send.send(f"{type(error).__name__}: {error}")
        sys.exit(1)
