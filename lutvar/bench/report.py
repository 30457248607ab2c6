# SPDX-License-Identifier: Apache-2.0
"""Results of a benchmark run: measurements with targets, as text, JSON or a Markdown page."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from lutvar.environment import cores
from lutvar.text import table, wrap_page

How = Literal["synthesised (Yosys xcup)", "simulated (Verilator)", "timed", "counted"]


@dataclass(frozen=True)
class Measurement:
    """One figure.

    Attributes:
        name: what was measured.
        value: the figure; None when it could not be measured, and `detail` says why.
        unit: of value and target.
        how: where the figure comes from.
        target: bound to keep; None when there is none.
        higher: True when the target is a lower bound.
        detail: other figures of the same run, or the reason for a missing value.
    """

    name: str
    value: float | None
    unit: str
    how: How
    target: float | None = None
    higher: bool = False
    detail: Mapping[str, Any] = field(default_factory=dict)

    @property
    def met(self) -> bool | None:
        """Whether the target is kept; None without a target or a value."""
        if self.target is None or self.value is None:
            return None
        return self.value >= self.target if self.higher else self.value <= self.target

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "name": self.name,
            "value": self.value,
            "unit": self.unit,
            "how": self.how,
            "target": self.target,
            "target_is": "at least" if self.higher else "at most",
            "met": self.met,
            "detail": dict(self.detail),
        }

    def cells(self) -> tuple[str, str, str, str, str, str]:
        """Name, target, measured, verdict, how, detail; as text."""
        bound = "-"
        if self.target is not None:
            bound = f"{'>=' if self.higher else '<='} {figure(self.target)} {self.unit}"
        value = "not measured" if self.value is None else f"{figure(self.value)} {self.unit}"
        verdict = {None: "", True: "met", False: "MISSED"}[self.met]
        detail = ", ".join(f"{key} {_text(item)}" for key, item in self.detail.items())
        return self.name, bound, value, verdict, self.how, detail


HEAD = ("what", "target", "measured", "", "how", "details")

#: Lines of a page between which `lutvar bench --markdown` writes its section.
BEGIN, END = "<!-- lutvar bench: begin -->\n", "<!-- lutvar bench: end -->\n"


def insert(page: str, section: str) -> str:
    """The page with the section between its marks, or the section alone for an empty page.

    Raises:
        ValueError: the page is not empty and has no marks.
    """
    if not page:
        return f"{BEGIN}\n{section}\n{END}"
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(
            f"the page has no lines {BEGIN.strip()!r} and {END.strip()!r} to write between"
        )
    return f"{before}{begin}\n{section}\n{end}{after}"


@dataclass(frozen=True)
class BenchmarkReport:
    """All measurements of one run, and the machine that they were made on."""

    measurements: tuple[Measurement, ...]
    machine: Mapping[str, Any]
    quick: bool
    seconds: float

    @property
    def missed(self) -> tuple[Measurement, ...]:
        """Measurements that break their target."""
        return tuple(m for m in self.measurements if m.met is False)

    @property
    def failed(self) -> tuple[Measurement, ...]:
        """Measurements that broke off (a missing tool is not a failure)."""
        return tuple(m for m in self.measurements if "error" in m.detail)

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "quick": self.quick,
            "seconds": round(self.seconds, 1),
            "machine": dict(self.machine),
            "measurements": [m.as_dict() for m in self.measurements],
        }

    def text(self) -> str:
        """Table for a terminal."""
        return f"{table(HEAD, (m.cells() for m in self.measurements))}\n\n{self._summary()}"

    def markdown(self) -> str:
        """Section for docs/performance.md: the table, its summary, the machine."""
        rows = ["| " + " | ".join(m.cells()) + " |" for m in self.measurements]
        command = "lutvar bench" + (" --quick" if self.quick else "")
        return wrap_page(
            "\n".join(
                [
                    f"Written by `{command} --markdown docs/performance.md`.",
                    "",
                    "| " + " | ".join(HEAD) + " |",
                    "|" + "---|" * len(HEAD),
                    *rows,
                    "",
                    self._summary(),
                    "",
                    ", ".join(f"{key} {value}" for key, value in self.machine.items()) + ".",
                    "",
                ]
            )
        )

    def _summary(self) -> str:
        targets = [m for m in self.measurements if m.met is not None]
        return (
            f"{len(targets) - len(self.missed)} of {len(targets)} targets met, "
            f"{self.seconds:.0f} s on {self.machine['cores']} cores."
        )


def figure(value: float) -> str:
    """A number for people: three significant digits when it is small, whole with commas else."""
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"


def _text(item: object) -> str:
    return figure(item) if isinstance(item, (int, float)) else str(item)


def machine(tools: Mapping[str, str | None]) -> dict[str, Any]:
    """Processor, cores, load, Python and the versions of the tools that matter for the figures.

    Call it before measuring: a load near or above the number of cores spoils what is timed.
    """
    return {
        "cpu": _cpu(),
        "load at the start": round(os.getloadavg()[0], 1),
        "cores": cores(),
        "python": platform.python_version(),
        **{name: version for name, version in tools.items() if version},
    }


def _cpu() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as info:
            for line in info:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


#: A step of a benchmark run: a label for the progress bar, and what returns its measurements.
Step = tuple[str, Callable[[], list[Measurement]]]
