# SPDX-License-Identifier: Apache-2.0
"""Many estimates at once, on all processors of this machine."""

from __future__ import annotations

import gc
import multiprocessing
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from lutvar.contract.accelerator import AcceleratorConfig
from lutvar.contract.quant_preset import QuantConfig
from lutvar.contract.shape import TransformerShape
from lutvar.contract.terms import Terms
from lutvar.environment import cores

from .model import Estimate, Estimator


@dataclass(frozen=True)
class Request:
    """One estimate: what `Estimator` and `Estimator.estimate` are given."""

    config: AcceleratorConfig
    shape: TransformerShape
    model: str
    schedule: str
    batch: int = 1
    guided: bool = True
    clock: float = 250.0
    full: bool = False
    quant: QuantConfig | None = None
    tile_rows: int | None = None
    sections: int | None = None
    terms: tuple[Terms, ...] = ()


def estimate_one(request: Request) -> Estimate:
    """The estimate that a request asks for."""
    r = request
    # Hundreds of thousands of objects, no reference cycles: collecting takes a fifth of the time.
    threshold = gc.get_threshold()
    gc.set_threshold(500_000, *threshold[1:])
    try:
        estimator = Estimator(
            r.config, r.shape, r.model, clock=r.clock, full=r.full, quant=r.quant,
            tile_rows=r.tile_rows, sections=r.sections, terms=r.terms,
        )  # fmt: skip
        return estimator.estimate(r.schedule, r.batch, r.guided)
    finally:
        gc.set_threshold(*threshold)


def estimate_many(
    requests: Sequence[Request],
    *,
    workers: int | None = None,
    on_done: Callable[[int, int], None] | None = None,
) -> list[Estimate]:
    """Estimates in the order of their requests; the same figures as one by one.

    Args:
        workers: processes; default: one for each processor that this process may use.
        on_done: called with the number of finished estimates and of all, here and in order.
    """
    workers = min(workers or cores(), len(requests))
    # Longest first, so that no long one starts last.
    order = sorted(range(len(requests)), key=lambda i: -_effort(requests[i]))
    results: dict[int, Estimate] = {}
    for done, (index, estimate) in enumerate(_computed(requests, order, workers), 1):
        results[index] = estimate
        if on_done is not None:
            on_done(done, len(requests))
    return [results[i] for i in range(len(requests))]


def _computed(
    requests: Sequence[Request], order: Iterable[int], workers: int
) -> Iterator[tuple[int, Estimate]]:
    jobs = [(i, requests[i]) for i in order]
    if workers <= 1:
        yield from map(_job, jobs)
        return
    # Ctrl-C reaches all of the group; the parent alone answers it, and ends the others.
    with multiprocessing.get_context("spawn").Pool(workers, _ignore_ctrl_c) as pool:
        yield from pool.imap_unordered(_job, jobs)


def _ignore_ctrl_c() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _job(job: tuple[int, Request]) -> tuple[int, Estimate]:
    return job[0], estimate_one(job[1])


def _effort(request: Request) -> float:
    """What an estimate takes, roughly: token rows times tiles of weights."""
    images = 1 if request.schedule == "single" else request.batch
    shape = request.shape
    return images * shape.tokens * shape.width / request.config.rows
