# SPDX-License-Identifier: Apache-2.0
"""Pictures of a run: which unit is busy when, and how far each scale step is from its bounds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lutvar.contract.isa import UNITS
from lutvar.files import rendered, write_file

_ACTIVE, _BUSY = "#1f6f8b", "#c5dbe2"
_BINS = 600  #: horizontal resolution of the timeline


@dataclass(frozen=True, eq=False)
class StepTrace:
    """Unit activity of one pass.

    Attributes:
        name: what the pass computed, for the axis.
        start, end: first and last cycle.
        changes: [n, 3]: cycle, busy bits, active bits by unit, one row a change.
    """

    name: str
    start: int
    end: int
    changes: NDArray[np.uint64]


@dataclass(frozen=True)
class RooflinePoint:
    """One scale step: multiply-accumulates, bytes moved and cycles, all measured."""

    name: str
    macs: int
    traffic: int
    cycles: int


def shares(trace: StepTrace, column: int, bins: int) -> NDArray[np.float64]:
    """[units, bins]: share of each interval in which a unit's bit is set (1 busy, 2 active)."""
    length = trace.end - trace.start
    times = trace.changes[:, 0].astype(np.int64) - trace.start
    times = np.append(np.clip(times, 0, length), length)
    edges = np.linspace(0, length, bins + 1)
    result = np.zeros((len(UNITS), bins))
    for unit in UNITS:
        bits = (trace.changes[:, column].astype(np.int64) >> unit) & 1
        # The bit's integral over time is piecewise linear: differences of it are exact.
        total = np.concatenate([[0], np.cumsum(bits * np.diff(times))])
        result[unit] = np.diff(np.interp(edges, times, total)) / np.diff(edges)
    return result


def draw_timeline(path: Path, traces: Sequence[StepTrace], title: str) -> None:
    """One panel for each pass, one lane for each unit: pale while busy, dark while it works."""
    pyplot = _pyplot()
    figure, axes = pyplot.subplots(
        len(traces), 1, figsize=(12, 1.0 + 1.5 * len(traces)), squeeze=False, layout="constrained"
    )
    for axis, trace in zip(axes[:, 0], traces, strict=True):
        length = trace.end - trace.start
        bins = max(1, min(_BINS, length))
        x = (np.arange(bins) + 0.5) * length / bins
        for column, colour in ((1, _BUSY), (2, _ACTIVE)):
            for unit, share in enumerate(shares(trace, column, bins)):
                low = len(UNITS) - 1 - unit
                axis.fill_between(x, low, low + 0.86 * share, color=colour, linewidth=0)
        axis.set_yticks([len(UNITS) - 1 - u + 0.4 for u in UNITS], [u.name for u in UNITS])
        axis.set_xlim(0, length)
        axis.set_ylim(-0.1, len(UNITS))
        axis.set_title(f"{trace.name}: {length:,} cycles", fontsize=9, loc="left")
        axis.tick_params(labelsize=8)
        for side in ("top", "right", "left"):
            axis.spines[side].set_visible(False)
    axes[-1, 0].set_xlabel("cycle")
    figure.suptitle(f"{title}\npale: an instruction is in progress, dark: data moves", fontsize=10)
    _write(figure, path)
    pyplot.close(figure)


def draw_roofline(
    path: Path, points: Sequence[RooflinePoint], lanes: int, bandwidth: float, title: str
) -> None:
    """Achieved against possible multiply-accumulates a cycle, over their number for each byte.

    Args:
        path: PNG file.
        points: one for each scale step.
        lanes: multipliers of the array: the horizontal roof.
        bandwidth: bytes a cycle that the memory ports can move: the slanted roof.
        title: above the picture.
    """
    pyplot = _pyplot()
    figure, axis = pyplot.subplots(figsize=(8, 5), layout="constrained")
    intensity = np.array([p.macs / max(p.traffic, 1) for p in points])
    speed = np.array([p.macs / max(p.cycles, 1) for p in points])
    low = min(intensity.min(), lanes / bandwidth) / 3
    high = max(intensity.max(), lanes / bandwidth) * 3
    x = np.geomspace(low, high, 200)
    axis.loglog(x, np.minimum(lanes, x * bandwidth), color="#333333", linewidth=1.2)
    axis.loglog(intensity, speed, "o", color=_ACTIVE)
    for point, i, s in zip(points, intensity, speed, strict=True):
        roof = min(lanes, i * bandwidth)
        axis.annotate(
            f"{point.name} ({100 * s / roof:.0f} % of its roof)", (i, s),
            textcoords="offset points", xytext=(7, -3), fontsize=8,
        )  # fmt: skip
    axis.set_xlabel("multiply-accumulates for each byte of memory traffic")
    axis.set_ylabel("multiply-accumulates a cycle")
    axis.set_title(title, fontsize=10)
    axis.grid(True, which="both", color="#eeeeee")
    _write(figure, path)
    pyplot.close(figure)


def _write(figure: Any, path: Path) -> None:
    write_file(path, rendered(lambda file: figure.savefig(file, format="png", dpi=110)))


def _pyplot() -> Any:
    """matplotlib without a display; imported late because it takes a second."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot
