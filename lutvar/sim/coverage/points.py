# SPDX-License-Identifier: Apache-2.0
"""Coverage points of Verilator: read, add up over instances, runs and builds.

Modules are counted once, however often they are instantiated, and signals by their bits: a bit is
covered when it has risen and fallen in some instance. Nets that Yosys invented are left out.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

_LINE = re.compile(r"^C '(.*)' (\d+)$")


class Point(NamedTuple):
    """Something that can be covered.

    Attributes:
        kind: "line", "branch" or "toggle".
        module: without the configuration's prefix.
        name: bit of a signal and its direction, or a line of the module's text.
    """

    kind: str
    module: str
    name: str


Counts = Mapping[Point, int]


class CoverageError(ValueError):
    """A file that holds no coverage; the message names it."""


def read_points(path: Path, prefix: str) -> dict[Point, int]:
    """Counts of a file of Verilator.

    Args:
        path: the file.
        prefix: of the module names, cut off.

    Raises:
        CoverageError: nothing in it.
    """
    counts: dict[Point, int] = defaultdict(int)
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        match = _LINE.match(line)
        if match is None:
            continue
        fields = dict(item.split("\x02", 1) for item in match[1].split("\x01") if "\x02" in item)
        kind, _, module = fields.get("page", "").removeprefix("v_").partition("/")
        name = fields.get("o", "") if kind == "toggle" else f"{fields.get('l')}:{fields.get('o')}"
        counts[Point(kind, module.removeprefix(prefix), name)] += int(match[2])
    if not counts:
        raise CoverageError(f"{path} holds no coverage; was the simulation built for it?")
    return dict(counts)


def merge(parts: Iterable[Counts]) -> dict[Point, int]:
    """Counts added up: what any run has covered is covered."""
    total: dict[Point, int] = defaultdict(int)
    for part in parts:
        for point, count in part.items():
            total[point] += count
    return dict(total)


@dataclass(frozen=True)
class Share:
    """How many points of a kind are covered."""

    covered: int
    total: int

    def __str__(self) -> str:
        percent = 100 * self.covered / self.total if self.total else 100.0
        return f"{self.covered:,} of {self.total:,} ({percent:.1f} %)"


def shares(counts: Counts) -> dict[tuple[str, str], Share]:
    """(module, kind) -> share, in order of names."""
    covered: dict[tuple[str, str], int] = defaultdict(int)
    total: dict[tuple[str, str], int] = defaultdict(int)
    for point, count in counts.items():
        key = point.module, point.kind
        total[key] += 1
        covered[key] += count > 0
    return {key: Share(covered[key], total[key]) for key in sorted(total)}


def share(counts: Counts, kind: str) -> Share:
    """Share over all modules."""
    points = [count for point, count in counts.items() if point.kind == kind]
    return Share(sum(count > 0 for count in points), len(points))


_BIT = re.compile(r"^(?P<signal>.*?)(?:\[(?P<bit>\d+)\])?(?P<edge>:[01]->[01])?$")


def uncovered(counts: Counts) -> dict[tuple[str, str], str]:
    """(module, signal) -> bits that never toggled, as ranges; "" for a signal of one bit."""
    missing: dict[tuple[str, str], set[int]] = defaultdict(set)
    for point, count in counts.items():
        if point.kind == "toggle" and not count:
            match = _BIT.match(point.name)
            assert match is not None
            bit = int(match["bit"]) if match["bit"] is not None else -1
            missing[point.module, match["signal"]].add(bit)
    return {key: ranges(bits - {-1}) for key, bits in sorted(missing.items())}


def ranges(bits: set[int]) -> str:
    """Numbers as text: {0, 1, 2, 5} is "5, 2..0"."""
    parts: list[list[int]] = []
    for bit in sorted(bits):
        if parts and bit == parts[-1][1] + 1:
            parts[-1][1] = bit
        else:
            parts.append([bit, bit])
    return ", ".join(f"{b}..{a}" if a != b else f"{a}" for a, b in reversed(parts))
