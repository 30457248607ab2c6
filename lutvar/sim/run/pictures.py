# SPDX-License-Identifier: Apache-2.0
"""Pictures of a run: which unit is busy when, and how far each scale step is from its bounds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lutvar.contract.isa import UNITS
from lutvar.files import rendered, write_file

_ACTIVE, _BUSY, _INK = "#1f6f8b", "#c5dbe2", "#333333"
_BINS = 600  #: horizontal resolution of the timeline


@dataclass(frozen=True, eq=False)
class StepTrace:
    """Unit activity of one pass.

    Attributes:
        name: what the pass computed, for the axis.
        start, end: first and last cycle.
        changes: [n, 3]: cycle, busy bits, active bits by unit, one row per change.
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
    """One panel for each pass, one lane for each unit: pale while busy, dark while it works.

    All panels have one time scale: the longest pass fills the width.
    """
    pyplot = _pyplot()
    figure, axes = pyplot.subplots(
        len(traces), 1, figsize=(12, 1.0 + 1.5 * len(traces)), squeeze=False, sharex=True,
        layout="constrained",
    )  # fmt: skip
    longest = max(trace.end - trace.start for trace in traces)
    for axis, trace in zip(axes[:, 0], traces, strict=True):
        length = trace.end - trace.start
        bins = max(1, min(_BINS, length))
        x = (np.arange(bins) + 0.5) * length / bins
        for column, colour in ((1, _BUSY), (2, _ACTIVE)):
            for unit, share in enumerate(shares(trace, column, bins)):
                low = len(UNITS) - 1 - unit
                axis.fill_between(x, low, low + 0.86 * share, color=colour, linewidth=0)
        axis.axvline(length, color=_INK, linewidth=0.8)
        axis.set_yticks([len(UNITS) - 1 - u + 0.4 for u in UNITS], [u.name for u in UNITS])
        axis.set_xlim(0, longest * 1.005)
        axis.set_ylim(-0.1, len(UNITS))
        axis.set_title(
            f"{trace.name}: {length:,} cycles from the first unit's start to the last one's end",
            fontsize=9, loc="left",
        )  # fmt: skip
        axis.tick_params(labelsize=8)
        for side in ("top", "right", "left"):
            axis.spines[side].set_visible(False)
    axes[-1, 0].xaxis.set_major_formatter(lambda value, _at: f"{value:,.0f}")
    axes[-1, 0].set_xlabel("cycle, the same scale for all passes")
    figure.suptitle(f"{title}\npale: an instruction is in progress, dark: data moves", fontsize=10)
    write_file(path, rendered(lambda file: figure.savefig(file, format="png", dpi=110)))
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
    from matplotlib.ticker import LogLocator, NullFormatter

    figure, axis = pyplot.subplots(figsize=(8, 5), layout="constrained")
    intensity = np.array([p.macs / max(p.traffic, 1) for p in points])
    speed = np.array([p.macs / max(p.cycles, 1) for p in points])
    ridge = lanes / bandwidth
    left, right = min(intensity.min(), ridge) / 3, max(intensity.max(), ridge) * 3
    x = np.array([left, ridge, right])
    axis.loglog(x, np.minimum(lanes, x * bandwidth), color=_INK, linewidth=1.2)
    axis.loglog(intensity, speed, "o", color=_ACTIVE)
    top = lanes * 2.2
    axis.set_xlim(left, right)
    axis.set_ylim(min(speed.min(), left * bandwidth) / 1.5, top)
    heights = axis.transData.transform(np.stack([intensity, speed], axis=1))[:, 1]
    places = spread(heights / figure.dpi * 72, 11.0) - heights / figure.dpi * 72
    for point, i, s, up in zip(points, intensity, speed, places, strict=True):
        roof = min(lanes, i * bandwidth)
        # Towards the middle, where there is room for the words.
        far = i > np.sqrt(left * right)
        axis.annotate(
            f"{point.name} ({100 * s / roof:.0f} % of its roof)", (i, s),
            textcoords="offset points", xytext=(-7 if far else 7, -3 + up), fontsize=8,
            ha="right" if far else "left",
        )  # fmt: skip
    axis.annotate(
        f"array: {lanes:,} MAC a cycle", (right, lanes), textcoords="offset points",
        xytext=(-6, 4), fontsize=8, ha="right", va="bottom", color=_INK,
    )  # fmt: skip
    corner = np.sqrt(left * ridge)
    axis.annotate(
        f"memory ports: {bandwidth:,g} bytes a cycle", (corner, corner * bandwidth),
        textcoords="offset points", xytext=(-4, 4), fontsize=8, ha="center", va="bottom",
        rotation=_slope(axis), rotation_mode="anchor", color=_INK,
    )  # fmt: skip
    for ticks in (axis.xaxis, axis.yaxis):
        ticks.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ticks.set_major_formatter(lambda value, _at: f"{value:,.10g}")
        ticks.set_minor_formatter(NullFormatter())
    axis.set_xlabel("MAC (multiply-accumulates) for each byte of memory traffic")
    axis.set_ylabel("MAC a cycle")
    axis.set_title(title, fontsize=10)
    axis.grid(True, which="both", color="#eeeeee")
    write_file(path, rendered(lambda file: figure.savefig(file, format="png", dpi=110)))
    pyplot.close(figure)


def spread(heights: NDArray[np.float64], min_gap: float) -> NDArray[np.float64]:
    """Heights as near as possible to the given ones, in their order, at least `min_gap` apart."""
    result = heights.copy()
    order = np.argsort(heights, kind="stable")
    for lower, upper in pairwise(order):
        result[upper] = max(result[upper], result[lower] + min_gap)
    return result


def _slope(axis: Any) -> float:
    """Angle on paper, in degrees, of a line of proportionality on logarithmic axes."""
    axis.figure.draw_without_rendering()
    (x0, x1), (y0, y1) = axis.get_xlim(), axis.get_ylim()
    box = axis.get_window_extent()
    return float(np.degrees(np.arctan2(box.height / np.log(y1 / y0), box.width / np.log(x1 / x0))))


def _pyplot() -> Any:
    """matplotlib without a display; imported late because it takes a second."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot
