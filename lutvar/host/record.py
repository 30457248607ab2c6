# SPDX-License-Identifier: Apache-2.0
"""What a comparison of device and golden model found, call by call, and where they first differ."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field

import numpy as np
from numpy.typing import NDArray

from .errors import HostError
from .status import Counters

#: Divergences kept; all are counted.
_KEPT = 16
#: Unsigned view in which the bits of a tensor are compared.
_BITS = {1: np.uint8, 2: np.uint16, 4: np.uint32}


@dataclass(frozen=True)
class Divergence:
    """The first differing element of one tensor.

    Attributes:
        step: scale step of the generation, from 0.
        site: layer, ``block2.fc1``.
        tensor: ``scale``, ``scale_neg``, ``codes`` or ``result``: the order of computation.
        sample, token: which row of the batch; guidance doubles the batch, unconditional half last.
        column: input feature (codes), group (scales) or output feature (result).
        expected, got: codes, FP16 patterns or float32 bits.
        count, total: differing elements and elements of this tensor.
    """

    step: int
    site: str
    tensor: str
    sample: int
    token: int
    column: int
    expected: int
    got: int
    count: int
    total: int

    def __str__(self) -> str:
        return (
            f"step {self.step}, {self.site}, {self.tensor}[sample {self.sample}, token "
            f"{self.token}, {self.column}]: expected 0x{self.expected:X}, got 0x{self.got:X} "
            f"({self.count} of {self.total} differ)"
        )


class DivergenceError(HostError):
    """Device and golden model differ, and the policy is to stop."""

    def __init__(self, divergence: Divergence) -> None:
        self.divergence = divergence
        super().__init__(f"device and golden model differ: {divergence}")


@dataclass(frozen=True)
class JobRecord:
    """One layer call: what was compared, and what the device counted.

    Attributes:
        step, block, site: where; ``site`` is qkv, proj, fc1 or fc2.
        rows: token rows, without padding.
        macs: useful multiply-accumulates, rows * K * O.
        compared, mismatches: elements by tensor name.
        run, dump: counters of the multiplication and of the dump of codes.
    """

    step: int
    block: int
    site: str
    rows: int
    macs: int
    compared: Mapping[str, int]
    mismatches: Mapping[str, int]
    run: Counters
    dump: Counters


@dataclass
class Recorder:
    """Collects job records and divergences of a run.

    Attributes:
        step: scale step now running; set it through `begin_step`.
        jobs: one record for each layer call, in order.
        divergences: the first few; ``divergences[0]`` is where it began.
        on_job: called with each new record, for progress.
    """

    step: int = 0
    jobs: list[JobRecord] = field(default_factory=list)
    divergences: list[Divergence] = field(default_factory=list)
    on_job: Callable[[JobRecord], None] | None = None

    def begin_step(self, step: int) -> None:
        """For `Var.step_hook`."""
        self.step = step

    def add(self, job: JobRecord) -> None:
        """Keep a record."""
        self.jobs.append(job)
        if self.on_job is not None:
            self.on_job(job)

    def totals(self, jobs: Iterable[JobRecord] | None = None) -> dict[str, dict[str, int]]:
        """Compared and mismatched elements by tensor, over all jobs or those given."""
        out: dict[str, dict[str, int]] = {}
        for job in self.jobs if jobs is None else jobs:
            for name, count in job.compared.items():
                row = out.setdefault(name, {"compared": 0, "mismatches": 0})
                row["compared"] += count
                row["mismatches"] += job.mismatches[name]
        return out

    @property
    def mismatches(self) -> int:
        """Differing elements of all tensors."""
        return sum(row["mismatches"] for row in self.totals().values())

    def compare(
        self,
        site: str,
        tokens: int,
        expected: Mapping[str, NDArray[np.generic]],
        got: Mapping[str, NDArray[np.generic]],
    ) -> tuple[dict[str, int], dict[str, int]]:
        """Compare tensors of one layer call bit by bit, in the order of ``expected``.

        Args:
            tokens: tokens of each sample; rows are samples times tokens.
            expected, got: by name, [rows, columns], same shapes.

        Returns:
            Elements compared and elements that differ, by name.
        """
        compared, wrong = {}, {}
        for name, reference in expected.items():
            a, b = _bits(reference), _bits(got[name])
            if a.shape != b.shape or a.dtype != b.dtype:
                raise ValueError(
                    f"{site} {name}: expected {a.dtype} {a.shape}, got {b.dtype} {b.shape}"
                )
            compared[name] = a.size
            different = a != b
            wrong[name] = int(np.count_nonzero(different))
            if wrong[name] and len(self.divergences) < _KEPT:
                row, column = (int(i) for i in np.argwhere(different)[0])
                sample, token = divmod(row, tokens)
                values = int(a[row, column]), int(b[row, column])
                self.divergences.append(
                    Divergence(
                        self.step, site, name, sample, token, column, *values, wrong[name], a.size
                    )
                )
        return compared, wrong

    def as_dict(self) -> dict[str, object]:
        """Totals and divergences as plain data."""
        return {
            "totals": self.totals(),
            "mismatches": self.mismatches,
            "divergences": [asdict(d) for d in self.divergences],
        }


def _bits(x: NDArray[np.generic]) -> NDArray[np.unsignedinteger]:
    return np.ascontiguousarray(x).view(_BITS[x.dtype.itemsize])
