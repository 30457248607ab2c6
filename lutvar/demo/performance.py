# SPDX-License-Identifier: Apache-2.0
"""What the device's counters say about a run: cycles, utilisation, stalls, traffic."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import reduce
from operator import add

from lutvar.contract.config import GROUP, HardwareConfig
from lutvar.host.record import JobRecord
from lutvar.host.status import Counters


@dataclass(frozen=True)
class Performance:
    """Counters of the multiplication jobs of one part of a run.

    Attributes:
        name: which part: ``all``, a step, or a site.
        calls: layer calls.
        rows: token rows through those layers.
        macs: useful multiply-accumulates.
        cycles, busy: cycles not idle, and cycles in which the array was issued work.
        issue_rate: busy / cycles.
        mac_rate: useful multiply-accumulates over what T * N * 128 lanes could do in ``cycles``.
            Below issue_rate: dual formats take two issues for each group, and rows are padded.
        stalls: cycles without issue by reason; ``other`` is filling, draining and control.
        stream_bytes: bytes moved, by stream.
        dump_cycles: cycles of the jobs that only streamed codes out for the comparison.
    """

    name: str
    calls: int
    rows: int
    macs: int
    cycles: int
    busy: int
    issue_rate: float
    mac_rate: float
    stalls: dict[str, int]
    stream_bytes: dict[str, int]
    dump_cycles: int

    @classmethod
    def of(cls, name: str, jobs: Sequence[JobRecord], hardware: HardwareConfig) -> Performance:
        """Sum up jobs; at least one."""
        total = reduce(add, (job.run for job in jobs), Counters())
        macs, lanes = sum(job.macs for job in jobs), hardware.token_rows * hardware.outputs * GROUP
        stalls = {
            "activations": total.stall_act,
            "weights": total.stall_wgt,
            "output": total.stall_out,
            "adder": total.stall_gap,
        }
        stalls["other"] = total.cycles - total.busy - sum(stalls.values())
        return cls(
            name,
            calls=len(jobs),
            rows=sum(job.rows for job in jobs),
            macs=macs,
            cycles=total.cycles,
            busy=total.busy,
            issue_rate=total.busy / total.cycles,
            mac_rate=macs / (total.cycles * lanes),
            stalls=stalls,
            stream_bytes={
                "s_axis_act": total.beats_act * hardware.stream_bytes,
                "s_axis_wgt": total.beats_wgt * hardware.stream_bytes,
                "m_axis_out": total.beats_out * hardware.stream_bytes,
            },
            dump_cycles=sum(job.dump.cycles for job in jobs),
        )

    def as_dict(self) -> dict[str, object]:
        return asdict(self)


def _by(
    key: Callable[[JobRecord], str], jobs: Iterable[JobRecord], hardware: HardwareConfig
) -> list[Performance]:
    parts: dict[str, list[JobRecord]] = {}
    for job in jobs:
        parts.setdefault(key(job), []).append(job)
    return [Performance.of(name, part, hardware) for name, part in parts.items()]


@dataclass(frozen=True)
class PerformanceTable:
    """The whole run, and the same by scale step and by site."""

    overall: Performance
    steps: list[Performance]
    sites: list[Performance]

    @classmethod
    def of(cls, jobs: Sequence[JobRecord], hardware: HardwareConfig) -> PerformanceTable:
        """Sum up all jobs of a run; at least one."""
        return cls(
            Performance.of("all", jobs, hardware),
            _by(lambda job: f"step {job.step}", jobs, hardware),
            _by(lambda job: job.site, jobs, hardware),
        )

    def as_dict(self) -> dict[str, object]:
        return asdict(self)
